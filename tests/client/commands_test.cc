// Every command against a scripted server: what it sends, what it writes, how it exits.

#include <cmath>
#include <sstream>

#include "client/app.h"
#include "client/proto_fields.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/scripted_service.h"
#include "tests/support/temp_dir.h"

namespace mayfly::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kGenerated =
    "generated { finish_reason: FINISH_REASON_LENGTH usage { prompt_tokens: 3 generated_tokens: 2 "
    "} "
    "timings { time_to_first_token_seconds: 0.25 total_seconds: 0.5 } }";
constexpr const char* kApplied =
    "update { outcome: UPDATE_OUTCOME_APPLIED chunk_index: 0 tokens: 4 label_tokens: 3 "
    "adapter_version: 1 losses: [3, 2] }";

class FixedClock final : public Clock {
 public:
  TimePoint Now() const override { return TimePoint(); }
};

class CommandsTest : public ::testing::Test {
 protected:
  // Runs `mayfly arguments...` against the script.
  int Run(const std::vector<std::string>& arguments, ScriptedService::Script script) {
    const ScriptedService service(std::move(script), info_);
    return RunAgainst(service.address(), arguments);
  }
  // Runs what never gets to a server.
  int Run(const std::vector<std::string>& arguments) { return RunAgainst("nowhere:1", arguments); }

  int RunAgainst(const std::string& address, const std::vector<std::string>& arguments) {
    Environment env{in_, out_, err_, clock_, interrupts_};
    env.server = address;
    env.in_is_terminal = env.out_is_terminal = env.err_is_terminal = on_terminal_;
    env.columns = 120;
    return RunApp(arguments, env);
  }

  // The JSON objects that were written.
  std::vector<Json> Lines() const {
    std::vector<Json> lines;
    std::istringstream written(out_.str());
    for (std::string line; std::getline(written, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  std::vector<std::string> Types() const {
    std::vector<std::string> types;
    for (const Json& line : Lines()) types.push_back(line["type"]);
    return types;
  }

  std::istringstream in_;
  std::ostringstream out_;
  std::ostringstream err_;
  bool on_terminal_ = false;
  v1::GetServerInfoResponse info_;
  const FixedClock clock_;
  Interrupts interrupts_{[] { FAIL() << "the process would have ended"; }};
};

// ---- mayfly --------------------------------------------------------------------------------

TEST_F(CommandsTest, HelpListsTheCommands) {
  EXPECT_EQ(Run({"help"}), 0);
  for (const char* name : {"generate", "score", "chat", "sessions", "info"}) {
    EXPECT_THAT(out_.str(), HasSubstr(name));
  }
}

TEST_F(CommandsTest, HelpOfACommandListsItsFlags) {
  EXPECT_EQ(Run({"help", "score"}), 0);
  EXPECT_THAT(out_.str(), StartsWith("mayfly score FILE [flags]\n"));
  EXPECT_THAT(out_.str(), HasSubstr("--compare_base"));
  EXPECT_EQ(Run({"score", "--help"}), 0);
}

TEST_F(CommandsTest, VersionIsOneLine) {
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_THAT(out_.str(), ::testing::MatchesRegex("mayfly [0-9.]+\n"));
}

TEST_F(CommandsTest, BadUsageSaysWhatIsWrongAndExitsWithTwo) {
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{}, "mayfly: a command is missing\nTry 'mayfly help'.\n"},
      {{"fly"}, "mayfly: unknown command 'fly'\nTry 'mayfly help'.\n"},
      {{"help", "fly"}, "mayfly help: unknown command 'fly'\nTry 'mayfly help'.\n"},
      {{"score"},
       "mayfly score: give one file to read; - is standard input\nTry 'mayfly help score'.\n"},
      {{"score", "a", "b"},
       "mayfly score: give one file to read; - is standard input\nTry 'mayfly help score'.\n"},
      {{"generate"},
       "mayfly generate: give the text to continue: --prompt TEXT, --file FILE or -\n"
       "Try 'mayfly help generate'.\n"},
      {{"generate", "--prompt", "a", "--file", "b"},
       "mayfly generate: give the text to continue: --prompt TEXT, --file FILE or -\n"
       "Try 'mayfly help generate'.\n"},
      {{"generate", "Once"},
       "mayfly generate: unexpected argument 'Once'; the text to continue goes into --prompt\n"
       "Try 'mayfly help generate'.\n"},
      {{"chat", "hello"}, "mayfly chat: unexpected argument 'hello'\nTry 'mayfly help chat'.\n"},
      {{"info", "--rank", "1"}, "mayfly info: unknown flag --rank\nTry 'mayfly help info'.\n"},
  };
  for (const auto& [arguments, message] : cases) {
    err_.str("");
    EXPECT_EQ(Run(arguments), 2);
    EXPECT_EQ(err_.str(), message);
  }
  EXPECT_EQ(out_.str(), "");
}

// ---- generate ------------------------------------------------------------------------------

grpc::Status GenerateTwice(ScriptedSession& session) {
  session.AcceptOpen();
  session.AcceptAppend();
  session.Next();
  session.Send("delta { text: ' upon' tokens { id: 5 logprob: -0.5 adapter_version: 1 } }");
  session.SendUnasked(kApplied);
  session.Send("delta { text: ' a' }");
  session.Send(kGenerated);
  session.AcceptEnd();
  return grpc::Status::OK;
}

TEST_F(CommandsTest, GenerateWritesTheTextAndNothingElseIntoAPipe) {
  EXPECT_EQ(Run({"generate", "--prompt", "Once"}, GenerateTwice), 0);
  EXPECT_EQ(out_.str(), " upon a");
  EXPECT_EQ(err_.str(), "");
}

TEST_F(CommandsTest, GenerateOnATerminalEndsWithADimLine) {
  on_terminal_ = true;
  EXPECT_EQ(Run({"generate", "--prompt", "Once"}, GenerateTwice), 0);
  EXPECT_EQ(out_.str(), " upon a\n");
  EXPECT_EQ(err_.str(),
            "\x1b[2m2 tokens, 4.0 tokens/s, first token after 0.25 s, 1 update applied\x1b[0m\n");
}

TEST_F(CommandsTest, GenerateAsJsonIsOneObjectALine) {
  EXPECT_EQ(Run({"generate", "--prompt", "Once", "--json"}, GenerateTwice), 0);
  const std::vector<Json> lines = Lines();
  EXPECT_THAT(Types(), ElementsAre("delta", "update", "delta", "summary"));
  EXPECT_EQ(lines[0].dump(), R"({"type":"delta","text":" upon","tokens":[{"id":5,"logprob":-0.5,)"
                             R"("adapter_version":1}]})");
  EXPECT_EQ(lines[3]["finish_reason"], "length");
  EXPECT_EQ(lines[3]["usage"]["generated_tokens"], 2);
  EXPECT_EQ(lines[3]["applied"], 1);
  EXPECT_EQ(lines[3]["moves"], 0);
}

TEST_F(CommandsTest, GenerateSendsItsFlags) {
  in_.str("from a pipe");
  const auto script = [](ScriptedSession& session) {
    const v1::Open open = session.AcceptOpen();
    EXPECT_EQ(open.adaptation().preset(), v1::PRESET_OFF);
    EXPECT_EQ(open.window_tokens(), 512u);
    EXPECT_EQ(session.AcceptAppend().text(), "from a pipe");
    const v1::Generate generate = session.Next().generate();
    EXPECT_EQ(generate.max_tokens(), 9u);
    EXPECT_EQ(generate.sampling().temperature(), 0.5);
    EXPECT_THAT(generate.stop(), ElementsAre("a", "b"));
    session.Send(kGenerated);
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"generate", "-", "--adaptation", "off", "--temperature", "0.5", "--window_tokens",
                 "512", "--max_tokens", "9", "--stop", "a", "--stop", "b"},
                script),
            0);
}

TEST_F(CommandsTest, ASessionThatGoesOnFromAFileBringsNoOptionsOfItsOwn) {
  const TempDir dir;
  dir.Write("snapshot", "sealed");
  v1::SessionRequest open, restore;
  EXPECT_EQ(Run({"generate", "--prompt", "Once", "--resume_from", dir / "snapshot"},
                [&](ScriptedSession& session) {
                  open = session.Next();
                  restore = session.Next();
                  session.SendTo(open.request_id(), "opened { session_id: 's1' resumed: true }");
                  session.AcceptAppend();
                  session.Next();
                  session.Send(kGenerated);
                  session.AcceptEnd();
                  return grpc::Status::OK;
                }),
            0)
      << err_.str();
  EXPECT_EQ(open.open().adaptation().ByteSizeLong() + open.open().sampling().ByteSizeLong(), 0u);
  EXPECT_EQ(open.open().snapshot_bytes(), 6u);
  EXPECT_EQ(restore.restore().data(), "sealed");
}

TEST_F(CommandsTest, ARefusedSessionIsAFailure) {
  const auto refuse = [](ScriptedSession& session) {
    session.Next();
    return grpc::Status(grpc::RESOURCE_EXHAUSTED, "all 8 rows are taken");
  };
  for (const char* command : {"generate", "score", "chat"}) {
    err_.str("");
    in_.clear();
    in_.str("some text");
    std::vector<std::string> arguments = {command};
    if (command != std::string("chat")) arguments.push_back("-");
    EXPECT_EQ(Run(arguments, refuse), 1);
    EXPECT_EQ(err_.str(), "mayfly " + std::string(command) + ": all 8 rows are taken\n");
  }
}

TEST_F(CommandsTest, AServerThatIsNotThereIsNamed) {
  ScriptedService service(GenerateTwice);
  service.Stop();
  EXPECT_EQ(RunAgainst("nowhere:1", {"generate", "--prompt", "x", "--server", service.address()}),
            1);
  EXPECT_THAT(err_.str(), StartsWith("mayfly generate: no server answers at " + service.address() +
                                     "; start mayflyd, or name another with --server ("));
}

TEST_F(CommandsTest, AStreamThatDiesIsAFailureAfterWhatCame) {
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    session.AcceptAppend();
    session.Next();
    session.Send("delta { text: ' upon' }");
    return grpc::Status(grpc::ABORTED, "terminated by an operator");
  };
  EXPECT_EQ(Run({"generate", "--prompt", "Once"}, script), 1);
  EXPECT_EQ(out_.str(), " upon");
  EXPECT_EQ(err_.str(), "mayfly generate: terminated by an operator\n");
}

TEST_F(CommandsTest, CtrlCCancelsTheGeneration) {
  const auto script = [this](ScriptedSession& session) {
    session.AcceptOpen();
    session.AcceptAppend();
    const uint64_t target = session.Next().request_id();
    session.SendTo(target, "delta { text: ' upon' }");
    interrupts_.Raise();
    EXPECT_TRUE(session.Next().has_cancel());
    session.SendTo(target, "generated { finish_reason: FINISH_REASON_CANCELLED }");
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"generate", "--prompt", "Once"}, script), 1);
  EXPECT_EQ(out_.str(), " upon");
  EXPECT_EQ(err_.str(), "mayfly generate: interrupted\n");
}

TEST_F(CommandsTest, APromptThatIsNotUtf8NeverLeaves) {
  EXPECT_EQ(Run({"generate", "--prompt", "a\xff"}), 1);
  EXPECT_EQ(err_.str(), "mayfly generate: --prompt is not UTF-8 text: byte 1 does not fit\n");
}

// ---- score ---------------------------------------------------------------------------------

// Six tokens, chunks of four, an update after the first.
grpc::Status ScoreSixTokens(ScriptedSession& session) {
  session.AcceptOpen();
  const v1::Append append = session.Next().append();
  EXPECT_EQ(append.text(), "a b c d e f");
  EXPECT_TRUE(append.score());
  EXPECT_TRUE(append.token_logprobs());
  const char* base = append.compare_base() ? "base_token_logprobs: [nan, -2, -2, -2]" : "";
  const char* more_base = append.compare_base() ? "base_token_logprobs: [-2, -2]" : "";
  session.Send(std::string("appended { tokens: 4 token_logprobs: [nan, -2, -2, -2] ") + base + "}");
  session.SendUnasked(kApplied);
  session.Send(std::string("appended { done: true tokens: 6 token_logprobs: [-1, -1] ") +
               more_base + "}");
  session.AcceptEnd();
  return grpc::Status::OK;
}

TEST_F(CommandsTest, ScoreReportsPerplexity) {
  in_.str("a b c d e f");
  EXPECT_EQ(Run({"score", "-", "--compare_base", "--chunk_report"}, ScoreSixTokens), 0);
  EXPECT_EQ(out_.str(),
            "  chunk 0                       7.39          7.39       0.0 %\n"
            "  chunk 1                       2.72          7.39     -63.2 %\n"
            "-: 6 tokens in 0.00 s (0 tokens/s), 1 update applied of 1\n"
            "\n"
            "  perplexity                 adapter   frozen base      change\n"
            "  whole text                    4.95          7.39     -33.0 %\n"
            "  mean of chunks                5.52          7.39     -25.3 %\n"
            "\n"
            "Learning while reading lowered the perplexity of this text by 33.0 %. Every token was "
            "scored\nbefore it was learned; other texts gain more or less.\n");
  EXPECT_EQ(err_.str(), "");
}

TEST_F(CommandsTest, ScoreAsJsonEndsWithTheSummary) {
  in_.str("a b c d e f");
  EXPECT_EQ(Run({"score", "-", "--compare_base", "--json"}, ScoreSixTokens), 0);
  EXPECT_THAT(Types(), ElementsAre("chunk", "update", "chunk", "summary"));
  const Json summary = Lines().back();
  EXPECT_EQ(summary["tokens"], 6);
  EXPECT_NEAR(summary["ppl"].get<double>(), std::exp(8.0 / 5), 1e-6);
  EXPECT_NEAR(summary["ppl_chunk_mean"].get<double>(), (3 * std::exp(2) + 2 * std::exp(1)) / 5,
              1e-6);
  EXPECT_NEAR(summary["base_ppl"].get<double>(), std::exp(2.0), 1e-6);
  EXPECT_EQ(summary["updates"], 1);
  EXPECT_EQ(summary["applied"], 1);
  EXPECT_EQ(summary["seconds"], 0.0);
}

TEST_F(CommandsTest, ScoreWithoutComparisonHasNoBase) {
  in_.str("a b c d e f");
  EXPECT_EQ(Run({"score", "-", "--json"}, ScoreSixTokens), 0);
  EXPECT_FALSE(Lines().back().contains("base_ppl"));
  EXPECT_FALSE(Lines().front().contains("base_ppl"));
}

TEST_F(CommandsTest, ScoreOnATerminalShowsItsProgress) {
  on_terminal_ = true;
  in_.str("a b c d e f");
  EXPECT_EQ(Run({"score", "-", "--compare_base"}, ScoreSixTokens), 0);
  EXPECT_THAT(err_.str(), HasSubstr("4 tokens  ppl 7.39  base 7.39 (0.0 %)  0 updates"));
  EXPECT_THAT(err_.str(), EndsWith("\r\x1b[K"));
}

TEST_F(CommandsTest, ScoreStopsAfterExactlyMaxTokens) {
  in_.str("a b c d e f");
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    const uint64_t target = session.Next().request_id();
    session.SendTo(target, "appended { tokens: 4 token_logprobs: [nan, -1, -1, -9] }");
    EXPECT_TRUE(session.Next().has_cancel());
    session.SendTo(target, "error { code: 1 message: 'cancelled' }");
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"score", "-", "--max_tokens", "3", "--json"}, script), 0);
  EXPECT_EQ(Lines().back()["tokens"], 3);
  EXPECT_NEAR(Lines().back()["ppl"].get<double>(), std::exp(1.0), 1e-6);
}

TEST_F(CommandsTest, ScoreReadsALongTextPieceByPiece) {
  std::string text;
  while (text.size() < 80'000) text += "forty-two ";
  in_.str(text);
  std::string received;
  int appends = 0;
  const auto script = [&](ScriptedSession& session) {
    session.AcceptOpen();
    v1::SessionRequest request = session.Next();
    for (; request.has_append(); request = session.Next(), ++appends) {
      received += request.append().text();
      session.Send("appended { done: true tokens: 2 token_logprobs: [-1, -1] }");
    }
    session.Send("closed {}");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"score", "-", "--json"}, script), 0);
  EXPECT_EQ(received, text);
  EXPECT_EQ(appends, 3);
  EXPECT_EQ(Lines().back()["tokens"], 6);
}

TEST_F(CommandsTest, ScoreContinuesInTheSameSession) {
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.Send("appended { done: true tokens: 3 token_logprobs: [nan, -1, -1] }");
    EXPECT_EQ(session.Next().generate().max_tokens(), 2u);
    session.Send("delta { text: ' and on' }");
    session.Send(kGenerated);
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  in_.str("on and on");
  EXPECT_EQ(Run({"score", "-", "--continue", "2"}, script), 0);
  EXPECT_THAT(out_.str(), EndsWith("\n\nThe text goes on:\n and on\n"));
  out_.str("");
  in_.clear();
  in_.str("on and on");
  EXPECT_EQ(Run({"score", "-", "--continue", "2", "--json"}, script), 0);
  EXPECT_THAT(Types(), ElementsAre("chunk", "delta", "generated", "summary"));
}

TEST_F(CommandsTest, CtrlCStopsTheReadingAndReportsWhatWasRead) {
  in_.str("a b c d e f");
  const auto script = [this](ScriptedSession& session) {
    session.AcceptOpen();
    const uint64_t target = session.Next().request_id();
    session.SendTo(target, "appended { tokens: 4 token_logprobs: [nan, -1, -1, -1] }");
    interrupts_.Raise();
    EXPECT_TRUE(session.Next().has_cancel());
    session.SendTo(target, "error { code: 1 message: 'cancelled' }");
    session.Next();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"score", "-"}, script), 1);
  EXPECT_THAT(out_.str(), StartsWith("-: 4 tokens in"));
  EXPECT_EQ(err_.str(), "mayfly score: interrupted before the end of the text\n");
}

TEST_F(CommandsTest, ScoreReportsWhatWasReadBeforeTheStreamDied) {
  in_.str("a b c d e f");
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.Send("appended { tokens: 4 token_logprobs: [nan, -1, -1, -1] }");
    return grpc::Status(grpc::UNAVAILABLE, "the engine is unhealthy");
  };
  EXPECT_EQ(Run({"score", "-", "--json"}, script), 1);
  EXPECT_THAT(Types(), ElementsAre("chunk", "summary"));
  EXPECT_EQ(Lines().back()["tokens"], 4);
  EXPECT_EQ(err_.str(), "mayfly score: the engine is unhealthy\n");
}

TEST_F(CommandsTest, ScoreOfOneTokenIsAFailure) {
  in_.str("a");
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.Send("appended { done: true tokens: 1 token_logprobs: [nan] }");
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"score", "-"}, script), 1);
  EXPECT_EQ(err_.str(), "mayfly score: the text is too short: no token was scored\n");
}

TEST_F(CommandsTest, ScoreOfAMissingFileIsAFailure) {
  EXPECT_EQ(Run({"score", "/nowhere/book.txt"}), 1);
  EXPECT_EQ(err_.str(), "mayfly score: cannot read /nowhere/book.txt: No such file or directory\n");
}

// ---- chat ----------------------------------------------------------------------------------

TEST_F(CommandsTest, ChatAnswersLineByLine) {
  in_.str("hello\n\n/pause\n/dance\nbye\n/quit\nnever sent\n");
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    const v1::Append first = session.AcceptAppend();
    EXPECT_EQ(first.messages().messages_size(), 2);
    EXPECT_EQ(first.messages().messages(0).role(), "system");
    EXPECT_EQ(first.messages().messages(1).content(), "hello");
    EXPECT_EQ(session.Next().generate().max_tokens(), 512u);
    session.Send("delta { text: 'hi there' }");
    session.Send(kGenerated);
    EXPECT_EQ(session.Next().adapt().action(), v1::ADAPT_ACTION_PAUSE);
    session.Send("adapted { adapter_version: 1 paused: true }");
    const v1::Append second = session.AcceptAppend();
    EXPECT_EQ(second.messages().messages_size(), 1);
    EXPECT_EQ(second.messages().messages(0).content(), "bye");
    session.Next();
    session.Send("delta { text: 'see you' }");
    session.Send(kGenerated);
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"chat", "--system", "be kind"}, script), 0);
  EXPECT_EQ(out_.str(), "hi there\nsee you\n");
  EXPECT_EQ(err_.str(),
            "adapter version 1, learning paused\nunknown command /dance; /help lists them\n");
}

TEST_F(CommandsTest, ChatGoesOnAfterARefusedMessage) {
  in_.str("too long\nshort\n");
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.Send("error { code: 3 message: 'append has 9 tokens, the limit is 8' }");
    session.AcceptAppend();
    session.Next();
    session.Send("delta { text: 'ok' }");
    session.Send(kGenerated);
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"chat"}, script), 0);
  EXPECT_EQ(out_.str(), "ok\n");
  EXPECT_EQ(err_.str(), "mayfly chat: append has 9 tokens, the limit is 8\n");
}

TEST_F(CommandsTest, ChatEndsWithTheStream) {
  in_.str("hello\nagain\n");
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    return grpc::Status(grpc::ABORTED, "the session was idle for 600 s");
  };
  EXPECT_EQ(Run({"chat"}, script), 1);
  EXPECT_EQ(err_.str(), "mayfly chat: the session was idle for 600 s\n");
}

TEST_F(CommandsTest, ChatOnATerminalPromptsAndTellsWhatWasLearned) {
  on_terminal_ = true;
  in_.str("hello\n");
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    session.AcceptAppend();
    session.Next();
    session.Send("delta { text: 'hi' }");
    session.SendUnasked(kApplied);
    session.Send("delta { text: ' there' }");
    session.Send(kGenerated);
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"chat"}, script), 0);
  EXPECT_EQ(out_.str(), "> hi there\n> \n");
  EXPECT_EQ(err_.str(),
            "\x1b[2m/help lists the commands, Ctrl-C ends an answer, /quit the chat\x1b[0m\n"
            "\x1b[2mupdate 0 applied: loss 3.00 -> 2.00, adapter version 1\x1b[0m\n"
            "\x1b[2m2 tokens, 4.0 tokens/s, first token after 0.25 s, 1 update applied\x1b[0m\n");
}

TEST_F(CommandsTest, ChatCtrlCEndsTheAnswerAndNotTheChat) {
  in_.str("tell me all\nthanks\n");
  const auto script = [this](ScriptedSession& session) {
    session.AcceptOpen();
    session.AcceptAppend();
    const uint64_t target = session.Next().request_id();
    session.SendTo(target, "delta { text: 'it began' }");
    interrupts_.Raise();
    EXPECT_TRUE(session.Next().has_cancel());
    session.SendTo(target, "generated { finish_reason: FINISH_REASON_CANCELLED }");
    session.AcceptAppend();
    session.Next();
    session.Send("delta { text: 'welcome' }");
    session.Send(kGenerated);
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"chat"}, script), 0);
  EXPECT_EQ(out_.str(), "it began\nwelcome\n");
}

TEST_F(CommandsTest, ChatAsJsonIsOneObjectALine) {
  in_.str("hello\n/reset\n");
  const auto script = [](ScriptedSession& session) {
    session.AcceptOpen();
    session.AcceptAppend();
    session.Next();
    session.Send("delta { text: 'hi' }");
    session.SendUnasked(kApplied);
    session.Send(kGenerated);
    EXPECT_EQ(session.Next().adapt().action(), v1::ADAPT_ACTION_RESET);
    session.Send("adapted { adapter_version: 2 }");
    session.AcceptEnd();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"chat", "--json"}, script), 0);
  EXPECT_THAT(Types(), ElementsAre("delta", "update", "generated", "adapted"));
}

// ---- info ----------------------------------------------------------------------------------

class InfoTest : public CommandsTest {
 protected:
  InfoTest() {
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
        R"pb(
          version: "0.1.0"
          device: "cpu"
          dtype: "bf16"
          model {
            name: "tiny"
            architecture: "LlamaForCausalLM"
            parameters: 134515008
            vocabulary: 49152
            layers: 30
            max_positions: 8192
            has_chat_template: true
          }
          limits {
            window_tokens: 4096
            max_rank: 64
            max_append_tokens: 65536
            max_generate_tokens: 16384
          }
          default_adaptation { preset: PRESET_BALANCED rank: 16 }
          default_sampling { temperature: 1 }
          rows_total: 8
          rows_free: 7
          row_bytes { kv: 1048576 adapter: 524288 optimizer: 524288 }
          memory {
            process: 1048576
            weights: 2097152
            rows: 16777216
            base_row: 1048576
            activation: 524288
            logits: 262144
            update: 262144
          }
        )pb",
        &info_));
  }
  static grpc::Status NoSession(ScriptedSession&) { return grpc::Status::OK; }
};

TEST_F(InfoTest, IsATableForPeople) {
  EXPECT_EQ(Run({"info"}, NoSession), 0);
  EXPECT_THAT(out_.str(), ::testing::ContainsRegex(
                              "^mayflyd 0.1.0 at 127.0.0.1:[0-9]+\n"
                              "  model       tiny \\(LlamaForCausalLM, 134.5M parameters"));
  EXPECT_THAT(out_.str(), EndsWith("  device      cpu, bf16\n"
                                   "  rows        7 of 8 free; 2.0 MiB each: kv 1.0 MiB, adapter "
                                   "512.0 KiB, optimizer 512.0 KiB\n"
                                   "  memory      21.0 MiB at full load: process 1.0 MiB, weights "
                                   "2.0 MiB, rows 17.0 MiB, steps and updates 1.0 MiB\n"
                                   "  limits      window 4,096 tokens, rank 64, append 65,536 "
                                   "tokens, generate 16,384 tokens\n"
                                   "  adaptation  preset balanced, rank 16\n"
                                   "  sampling    temperature 1.0\n"));
}

TEST_F(InfoTest, IsOneObjectForPrograms) {
  EXPECT_EQ(Run({"info", "--json"}, NoSession), 0);
  ASSERT_THAT(Types(), ElementsAre("info"));
  EXPECT_EQ(Lines()[0]["model"]["parameters"], 134515008);
  EXPECT_EQ(Lines()[0]["default_adaptation"]["preset"], "balanced");
  EXPECT_EQ(Lines()[0]["rows_free"], 7);
}

}  // namespace
}  // namespace mayfly::cli
