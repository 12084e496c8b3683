#include "session/token_history.h"

#include "engine/base/log.h"

namespace mayfly {

void TokenHistory::SetBaseLogprob(uint64_t position, float logprob) {
  MAYFLY_CHECK(position >= begin_ && position < end());
  tokens_[position - begin_].base_logprob = logprob;
}

void TokenHistory::DropBefore(uint64_t position) {
  while (begin_ < position && !tokens_.empty()) {
    tokens_.pop_front();
    ++begin_;
  }
}

const HistoryToken& TokenHistory::at(uint64_t position) const {
  MAYFLY_CHECK(position >= begin_ && position < end());
  return tokens_[position - begin_];
}

}  // namespace mayfly
