#!/usr/bin/env python3
"""An exported adapter, loaded by PEFT, predicts what the session that learned it predicts.

    tests/parity/check_export.py     with the reference environment (./dev goldens) beside the project's own

A session of the real server learns a text, exports its adapter, and scores more text that it does not learn. transformers and
PEFT load the default model and the export, and score the same tokens behind the same window.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/smollm2-135m-instruct"
BOOK = ROOT / "docs/demo/the-lawton-girl.txt"
REFERENCE = ROOT / ".venv-reference/bin/python"
# Natural logarithms of a probability, in fp32 on both sides.
TOLERANCE = 1e-3


def of_the_server(folder):
    """Exports into `folder`; returns the window's tokens, the tokens scored, and their log-probabilities."""
    sys.path.insert(0, str(ROOT / "tests/e2e"))
    from harness import Server, Stream, options_pb2, pb

    learned, scored = (BOOK.read_text()[:3000], BOOK.read_text()[3000:3600])
    server = Server("--dtype=fp32", "--slots=1", "--window_tokens=1024", "--max_rank=16", "--chunk_tokens=128",
                    "--context_tokens=64", "--log_level=warning")
    try:
        with server.channel() as channel, Stream(channel) as stream:
            # The window is computed again after each update, so that all of it is of the adapter that is exported.
            stream.open(adaptation=options_pb2.AdaptationOptions(
                rank=16, chunk_tokens=128, context_tokens=64, learning_rate=1e-3, mode=options_pb2.MODE_CASCADED,
                kv_policy=options_pb2.KV_POLICY_REFRESH), seed=3)
            stream.append(learned)
            files = stream.export(format=pb.EXPORT_FORMAT_PEFT)
            # The chunk that is begun would be learned once it is complete.
            stream.send(adapt=pb.Adapt(action=pb.ADAPT_ACTION_PAUSE))
            stream.send(append=pb.Append(text=scored, learn=False, token_logprobs=True))
            logprobs = []
            while True:
                appended = stream.next("appended").appended
                logprobs += appended.token_logprobs
                if appended.done:
                    break
    finally:
        server.kill()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    window = appended.window_position - len(logprobs)
    return {"learned": learned, "scored": scored, "window": window, "logprobs": logprobs, "adapter": str(folder)}


def of_peft(told):
    """The same log-probabilities with the adapter and without it."""
    import peft
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    window = tokenizer(told["learned"], add_special_tokens=False)["input_ids"][-told["window"]:]
    scored = tokenizer(told["scored"], add_special_tokens=False)["input_ids"]
    assert len(scored) == len(told["logprobs"]), "the two sides tokenize alike"
    ids = torch.tensor([window + scored])

    def logprobs(model):
        with torch.no_grad():
            all_logprobs = model(ids).logits[0].log_softmax(-1)
        places = torch.arange(len(window) - 1, len(window) + len(scored) - 1)
        return all_logprobs[places, torch.tensor(scored)]

    base = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    without = logprobs(base)
    adapted = logprobs(peft.PeftModel.from_pretrained(base, told["adapter"]))
    ours = torch.tensor(told["logprobs"])
    return {"tokens": len(scored), "difference": (ours - adapted).abs().max().item(),
            "learned": (without - adapted).abs().max().item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", type=pathlib.Path, help=argparse.SUPPRESS)
    told_file = parser.parse_args().compare
    if told_file is not None:
        print(json.dumps(of_peft(json.loads(told_file.read_text()))))
        return
    with tempfile.TemporaryDirectory() as folder:
        told = of_the_server(pathlib.Path(folder))
        told_file = pathlib.Path(folder) / "told.json"
        told_file.write_text(json.dumps(told))
        done = subprocess.run([REFERENCE, __file__, "--compare", told_file], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{result['tokens']} tokens: PEFT with the export differs by at most {result['difference']:.1e} nats from the session, "
          f"and by {result['learned']:.1e} from the base without it")
    sys.exit(0 if result["difference"] < TOLERANCE < result["learned"] else "they differ")


if __name__ == "__main__":
    main()
