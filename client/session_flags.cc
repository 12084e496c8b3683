#include "client/session_flags.h"

#include <utility>

namespace mayfly::cli {

std::vector<Flag> ServerFlags(ChannelOptions* target) {
  return {
      TextFlag("server", "ADDR", "server to use (MAYFLY_SERVER, else 127.0.0.1:7400)",
               &target->address),
      TextFlag("tls_ca", "FILE", "PEM: who may have signed the server's certificate; turns on TLS",
               &target->tls_ca),
      TextFlag("tls_cert", "FILE", "PEM: this client's certificate, where the server wants one",
               &target->tls_cert),
      TextFlag("tls_key", "FILE", "PEM: the key of tls_cert", &target->tls_key),
      TextFlag("token_file", "FILE", "holds the bearer token, where the server wants one",
               &target->token_file),
      SwitchFlag("insecure", "send the token to other machines without TLS too",
                 &target->insecure)};
}

FlagGroup OutputFlagGroup(OutputFlags* target) {
  FlagGroup group{"Server and output", ServerFlags(&target->server)};
  group.flags.push_back(SwitchFlag("json", "one JSON object a line, for programs", &target->json));
  return group;
}

FlagGroup KeepFlagGroup(KeepFlags* target) {
  return {
      "Keeping what was learned (a session is gone with its end)",
      {TextFlag("export_peft", "DIR", "at the end: the adapter, as PEFT loads it",
                &target->export_peft),
       TextFlag("export_snapshot", "FILE", "at the end: all of the session, sealed by the server",
                &target->export_snapshot),
       TextFlag("resume_from", "FILE", "go on from such a file; its options hold",
                &target->resume_from),
       SwitchFlag("resume", "go on elsewhere when the server goes away and hands over",
                  &target->resume)}};
}

FlagGroup SessionFlagGroup(v1::Open* target) {
  return {"Session",
          {FieldFlag("window_tokens", "tokens the model sees at once", target),
           FieldFlag("seed", "seeds the adapter, dropout and sampling", target),
           FieldFlag("label", "a name for operators, never interpreted", target)}};
}

FlagGroup AdaptationFlagGroup(v1::AdaptationOptions* target) {
  const auto option = [target](std::string name, std::string help, const char* field = "") {
    return FieldFlag(std::move(name), std::move(help), target, field);
  };
  return {"Adaptation (what is not given comes from the preset)",
          {option("adaptation", "preset to start from; balanced is the server's default", "preset"),
           option("rank", "rank of the adapter"),
           option("alpha", "the adapter's output is scaled by alpha / rank"),
           option("target_modules", "linear layers that carry an adapter"),
           option("first_layer", "layers below this one carry no adapter"),
           option("chunk_tokens", "tokens that make one update"),
           option("context_tokens", "tokens before a chunk that are context, never labels"),
           option("epochs", "optimizer steps a chunk"),
           option("gradient_scope", "how far a gradient reaches back"),
           option("learning_rate", "AdamW's learning rate"),
           option("warmup_chunks", "chunks over which the learning rate rises from zero"),
           option("weight_decay", "AdamW's decoupled weight decay"),
           option("beta1", "AdamW's first decay rate"),
           option("beta2", "AdamW's second decay rate"),
           option("eps", "AdamW's epsilon"),
           option("grad_clip", "global norm to clip gradients to; 0 clips nothing"),
           option("dropout", "dropout of the adapter in training"),
           option("mode", "whether generation waits for an update"),
           option("max_lag_chunks", "mode parallel: chunks collected during an update"),
           option("kv_policy", "what happens to keys and values of older versions"),
           option("refresh_every", "kv_policy refresh_every: updates between two refreshes"),
           option("learn_from", "whose tokens are learned"),
           option("output_weight", "loss weight of the model's own tokens, 0 to 1"),
           option("receipt", "measure every chunk against the frozen base"),
           option("gate", "drop bad updates, roll back an adapter that does harm"),
           option("gate_threshold", "nats a token the adapter may do worse than the base"),
           option("init", "how a fresh adapter starts"),
           option("target_inter_token_ms", "learning waits while tokens are slower; 0: never"),
           option("adapter_seed", "seeds the adapter alone", "seed")}};
}

FlagGroup SamplingFlagGroup(v1::SamplingOptions* target) {
  const auto option = [target](std::string name, std::string help, const char* field = "") {
    return FieldFlag(std::move(name), std::move(help), target, field);
  };
  return {"Sampling",
          {option("temperature", "0 takes the most probable token"),
           option("top_p", "keep the most probable tokens up to this probability"),
           option("top_k", "keep this many of the most probable tokens; 0 keeps all"),
           option("min_p", "keep tokens this probable relative to the first"),
           option("repetition_penalty", "above 1 avoids tokens of the window"),
           option("frequency_penalty", "subtracted for each time a token was generated"),
           option("presence_penalty", "subtracted once if a token was generated"),
           option("sampling_seed", "seeds sampling alone", "seed")}};
}

std::vector<Flag> StopFlags(v1::Generate* target) {
  return {FieldFlag("stop", "end before this text; may be given again", target),
          FieldFlag("stop_token_ids", "end at this token; may be given again", target),
          FieldFlag("ignore_eos", "go on past the model's end-of-sequence token", target)};
}

}  // namespace mayfly::cli
