// Sessions with every thread that a server has: the engine delivers on one, clients send and read
// on others, and an operator ends sessions meanwhile. Worth most under ThreadSanitizer.

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/mutex.h"
#include "gtest/gtest.h"
#include "session/session_manager.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_engine.h"

namespace mayfly {
namespace {

// Reads one session until its final status, waiting where there is nothing to take.
class Reader {
 public:
  void Wake() {
    MutexLock lock(&mu_);
    ready_ = true;
    woken_.NotifyAll();
  }

  void ReadToTheEnd(Session& session) {
    while (true) {
      Outbox::Item item = session.outbox().Take();
      if (item.event) {
        closed_ |= std::holds_alternative<ClosedEvent>(item.event->body);
        if (const auto* delta = std::get_if<DeltaEvent>(&item.event->body)) {
          text_ += delta->delta.text;
        }
      } else if (item.final_status) {
        return;
      } else {
        MutexLock lock(&mu_);
        while (!ready_) woken_.Wait(&mu_);
        ready_ = false;
      }
    }
  }

  const std::string& text() const { return text_; }
  bool closed() const { return closed_; }

 private:
  Mutex mu_;
  CondVar woken_;
  bool ready_ ABSL_GUARDED_BY(mu_) = false;
  // The reading thread's.
  std::string text_;
  bool closed_ = false;
};

class SessionThreadsTest : public testing::Test {
 protected:
  SessionThreadsTest() : manager_(SmallOutbox(), &engine_, &clock_, &log_, &metrics_) {
    engine_.RunInBackground();
  }
  // Nothing is delivered any more when the manager goes.
  ~SessionThreadsTest() override { engine_.StopBackground(); }

  static SessionManager::Options SmallOutbox() {
    SessionManager::Options options;
    options.limits.outbox_events = 4;
    return options;
  }

  static void SendACommonStream(Session& session, UpdateMode mode) {
    OpenCommand open;
    open.adaptation.mode = mode;
    open.adaptation.chunk_tokens = 8;
    open.adaptation.context_tokens = 4;
    open.adaptation.receipt = true;
    session.Handle(1, open);
    AppendCommand append;
    append.input = TextInput("ab");
    session.Handle(2, append);
    GenerateCommand generate;
    generate.max_tokens = 50;
    session.Handle(3, generate);
  }

  FakeClock clock_;
  FakeEngine engine_{{.rows = 4, .update_steps = 5}};
  Logger log_{LogLevel::kError, LogFormat::kText};
  SessionMetrics metrics_;
  SessionManager manager_;
};

TEST_F(SessionThreadsTest, EveryClientReadsItsWholeTextWhateverTheOthersDo) {
  std::string expected;
  for (int i = 2; i < 52; ++i) expected += static_cast<char>('a' + i % 26);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> clients;
    for (int i = 0; i < 4; ++i) {
      clients.emplace_back([&, i] {
        const auto reader = std::make_shared<Reader>();
        const auto session = manager_.Create({"tenant", "peer"}, [reader] { reader->Wake(); });
        std::thread sender([&] {
          SendACommonStream(*session, i % 2 == 0 ? UpdateMode::kCascaded : UpdateMode::kParallel);
          session->HalfClose();
        });
        reader->ReadToTheEnd(*session);
        sender.join();
        EXPECT_EQ(reader->text(), expected);
        EXPECT_TRUE(reader->closed());
      });
    }
    for (int i = 0; i < 20; ++i) {
      engine_.SetDefersLearning(i % 2 == 0);
      manager_.ExpireSessions();
    }
    for (std::thread& client : clients) client.join();
  }
}

TEST_F(SessionThreadsTest, AnEndFromAnywhereAtAnyTimeReachesTheReader) {
  for (int round = 0; round < 100; ++round) {
    const auto reader = std::make_shared<Reader>();
    const auto session = manager_.Create({"tenant", "peer"}, [reader] { reader->Wake(); });
    const UpdateMode mode = round % 2 == 0 ? UpdateMode::kCascaded : UpdateMode::kParallel;
    std::thread sender([&] { SendACommonStream(*session, mode); });
    std::thread operator_thread([&] {
      manager_.ExpireSessions();
      session->End(CloseReason::kCancelled, absl::CancelledError("ended"));
    });
    reader->ReadToTheEnd(*session);
    sender.join();
    operator_thread.join();
  }
  EXPECT_EQ(metrics_.active.value(), 0);
}

}  // namespace
}  // namespace mayfly
