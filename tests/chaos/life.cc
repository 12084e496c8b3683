#include "tests/chaos/life.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel_posix.h"
#include "mayfly/v1/admin_service.grpc.pb.h"
#include "mayfly/v1/inference_service.grpc.pb.h"
#include "tests/support/tcp.h"

namespace mayfly {
namespace {

constexpr size_t kRestorePart = 64 << 10;

class Life {
 public:
  Life(const World& world, uint64_t seed) : world_(world), random_(seed) {
    way_out_ = static_cast<WayOut>(Draw(0, kWaysOut - 1));
    if (way_out_ == WayOut::kDisconnect) connection_.emplace(world.address);
    channel_ = connection_ ? grpc::CreateInsecureChannelFromFd("chaos", dup(connection_->fd()))
                           : world.channel;
    if (way_out_ == WayOut::kDeadline) {
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::milliseconds(Draw(0, 60)));
    }
    stub_ = v1::InferenceService::NewStub(channel_);
    stream_ = stub_->Session(&context_);
  }

  WayOut Run() {
    if (!Chance(3)) Open();
    for (int left = Draw(0, 6); left > 0; --left) {
      Send(AnyCommand());
      if (!Chance(30)) Read(Draw(0, 20));
    }
    Leave();
    ReadToTheEnd();
    stream_->Finish();
    return way_out_;
  }

 private:
  int Draw(int least, int most) { return std::uniform_int_distribution<int>(least, most)(random_); }
  bool Chance(int percent) { return Draw(1, 100) <= percent; }
  std::string Text(int most) {
    std::string text(static_cast<size_t>(Draw(1, most)), ' ');
    for (char& letter : text) letter = static_cast<char>(Draw(' ', '~'));
    return text;
  }

  void Send(v1::SessionRequest request) {
    request.set_request_id(++last_id_);
    // A cancel that finds its target has no answer of its own.
    if (!request.has_cancel()) awaited_ = last_id_;
    stream_->Write(request);
  }

  // Up to `most` events, but none that need not come.
  void Read(int most) {
    v1::SessionResponse response;
    while (most-- > 0 && outstanding() && stream_->Read(&response)) Take(response);
  }
  void ReadToTheEnd() {
    v1::SessionResponse response;
    while (stream_->Read(&response)) Take(response);
  }
  bool outstanding() const { return !ended_ && answered_ < awaited_; }

  void Take(const v1::SessionResponse& response) {
    using Event = v1::SessionResponse;
    switch (response.event_case()) {
      case Event::kOpened:
        world_.legacy->resumed += response.opened().resumed();
        answered_ = std::max(answered_, response.request_id());
        break;
      case Event::kGenerated:
      case Event::kAdapted:
      case Event::kError: answered_ = std::max(answered_, response.request_id()); break;
      case Event::kAppended:
        if (response.appended().done()) answered_ = std::max(answered_, response.request_id());
        break;
      case Event::kExported: TakeExported(response); break;
      case Event::kClosed: ended_ = true; break;
      default: break;
    }
  }
  void TakeExported(const v1::SessionResponse& response) {
    const v1::Exported& exported = response.exported();
    if (!exported.resume_token().empty()) world_.legacy->AddToken(exported.resume_token());
    if (exported.file() == "session.snapshot") sealed_ += exported.data();
    if (!exported.done()) return;
    if (!sealed_.empty()) world_.legacy->AddSnapshot(std::exchange(sealed_, {}));
    answered_ = std::max(answered_, response.request_id());
  }

  void Open() {
    v1::SessionRequest request;
    v1::Open& open = *request.mutable_open();
    std::string sealed;
    if (Chance(15)) {
      open.set_resume_token(world_.legacy->AnyToken(random_()));
    } else if (Chance(15)) {
      sealed = world_.legacy->AnySnapshot(random_());
      open.set_snapshot_bytes(sealed.size());
    }
    if (open.resume_token().empty() && sealed.empty()) Wish(&open);
    Send(std::move(request));
    Restore(std::move(sealed));
    if (!Chance(20)) Read(1);
  }
  void Restore(std::string sealed) {
    // Some are cut off or damaged on the way.
    if (!sealed.empty() && Chance(10)) sealed[random_() % sealed.size()] ^= 1;
    if (!sealed.empty() && Chance(10)) sealed.resize(random_() % sealed.size());
    for (size_t begin = 0; begin < sealed.size(); begin += kRestorePart) {
      v1::SessionRequest part;
      part.mutable_restore()->set_data(sealed.substr(begin, kRestorePart));
      stream_->Write(part);
    }
  }
  void Wish(v1::Open* open) {
    v1::AdaptationOptions& adaptation = *open->mutable_adaptation();
    open->set_seed(random_());
    if (Chance(15)) return adaptation.set_preset(v1::PRESET_OFF);
    adaptation.set_rank(static_cast<uint32_t>(Draw(1, 8)));
    adaptation.set_chunk_tokens(static_cast<uint32_t>(Draw(4, 16)));
    adaptation.set_context_tokens(8);
    adaptation.set_mode(Chance(50) ? v1::MODE_PARALLEL : v1::MODE_CASCADED);
    adaptation.set_receipt(Chance(30));
    // One that no server grants.
    if (Chance(3)) adaptation.set_rank(100'000);
  }

  v1::SessionRequest AnyCommand() {
    v1::SessionRequest request;
    switch (Draw(0, 9)) {
      case 0:
      case 1:
      case 2:
      case 3: Append(request.mutable_append()); break;
      case 4:
      case 5:
      case 6: Generate(request.mutable_generate()); break;
      case 7: request.mutable_adapt()->set_action(static_cast<v1::AdaptAction>(Draw(1, 4))); break;
      case 8:
        request.mutable_export_()->set_format(static_cast<v1::ExportFormat>(Draw(1, 2)));
        request.mutable_export_()->set_store(request.export_().format() == 2 && Chance(50));
        break;
      default: request.mutable_cancel()->set_request_id(last_id_ > 1 ? last_id_ : 0); break;
    }
    return request;
  }
  void Append(v1::Append* append) {
    append->set_text(Text(120));
    append->set_score(Chance(50));
    append->set_compare_base(Chance(20));
  }
  void Generate(v1::Generate* generate) {
    // Some never end by themselves.
    generate->set_max_tokens(Chance(15) ? 1'000'000 : static_cast<uint32_t>(Draw(1, 80)));
    generate->set_ignore_eos(Chance(70));
    generate->mutable_sampling()->set_temperature(Chance(50) ? 1 : 0);
  }

  void Leave() {
    switch (way_out_) {
      case WayOut::kHalfClose: return HalfClose();
      case WayOut::kClose: return Close();
      case WayOut::kCancel: return context_.TryCancel();
      case WayOut::kDeadline: return;  // is on its way
      case WayOut::kDisconnect: shutdown(connection_->fd(), SHUT_RDWR); return;
      case WayOut::kOperator: return BeTerminated();
      case WayOut::kSilence: return FallSilent();
    }
  }
  void HalfClose() {
    // Whoever wants the end has to stop what would never end.
    v1::SessionRequest request;
    request.mutable_cancel()->set_request_id(0);
    Send(std::move(request));
    stream_->WritesDone();
  }
  void Close() {
    v1::SessionRequest request;
    request.mutable_close();
    Send(std::move(request));
  }
  void FallSilent() {
    if (Chance(50)) {
      v1::SessionRequest endless;
      endless.mutable_generate()->set_max_tokens(1'000'000);
      endless.mutable_generate()->set_ignore_eos(true);
      Send(std::move(endless));
    }
    world_.pass(kSilenceSeconds);
  }
  // Somebody ends any session; and this one, if it was not that, hangs up.
  void BeTerminated() {
    const auto admin = v1::AdminService::NewStub(world_.channel);
    grpc::ClientContext listing, ending;
    v1::ListSessionsResponse open;
    admin->ListSessions(&listing, {}, &open);
    if (open.sessions_size() > 0) {
      v1::TerminateSessionRequest request;
      request.set_session_id(
          open.sessions(static_cast<int>(random_() % static_cast<uint64_t>(open.sessions_size())))
              .session_id());
      v1::TerminateSessionResponse response;
      admin->TerminateSession(&ending, request, &response);
    }
    context_.TryCancel();
  }

  const World& world_;
  std::mt19937_64 random_;
  WayOut way_out_ = WayOut::kClose;
  std::optional<TcpConnection> connection_;
  std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext context_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
  uint64_t last_id_ = 0;
  // The last command that will be answered, and the last that was.
  uint64_t awaited_ = 0;
  uint64_t answered_ = 0;
  bool ended_ = false;
  std::string sealed_;
};

std::string Any(const std::vector<std::string>& all, uint64_t draw) {
  return all.empty() ? "" : all[draw % all.size()];
}

void Remember(std::vector<std::string>* all, std::string one, size_t most) {
  if (all->size() == most) all->erase(all->begin());
  all->push_back(std::move(one));
}

}  // namespace

void Legacy::AddToken(std::string token) {
  MutexLock lock(&mu_);
  Remember(&tokens_, std::move(token), kMost);
}

void Legacy::AddSnapshot(std::string sealed) {
  MutexLock lock(&mu_);
  Remember(&snapshots_, std::move(sealed), kMost);
}

std::string Legacy::AnyToken(uint64_t draw) const {
  MutexLock lock(&mu_);
  return Any(tokens_, draw);
}

std::string Legacy::AnySnapshot(uint64_t draw) const {
  MutexLock lock(&mu_);
  return Any(snapshots_, draw);
}

WayOut Live(const World& world, uint64_t seed) { return Life(world, seed).Run(); }

}  // namespace mayfly
