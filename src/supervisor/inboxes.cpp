#include "supervisor/inboxes.hpp"

#include <sys/epoll.h>

#include <limits>
#include <utility>

namespace mik::supervisor {

namespace {

constexpr base::Duration kRetry = std::chrono::milliseconds(50);

}  // namespace

class Inboxes::Box final : public net::IoHandler {
 public:
  Box(Inboxes& owner, std::size_t slot_of_box, shared::InboxPair both)
      : slot(slot_of_box), pair(std::move(both)), owner_(owner) {}
  void on_io(std::uint32_t /*events*/) override {
    if (forwards) {
      owner_.empty(*this);
    }
  }

  const std::size_t slot;
  shared::InboxPair pair;
  bool forwards = false;
  bool watched = false;

 private:
  Inboxes& owner_;
};

Inboxes::Inboxes(net::Loop& loop, shared::Segment& segment) : loop_(loop), segment_(segment) {}

base::Result<std::unique_ptr<Inboxes>> Inboxes::create(net::Loop& loop, shared::Segment& segment) {
  std::unique_ptr<Inboxes> inboxes(new Inboxes(loop, segment));
  for (std::size_t slot = 0; slot < segment.slots(); ++slot) {
    MIK_TRY_ASSIGN(shared::InboxPair pair, shared::make_inbox());
    inboxes->boxes_.push_back(std::make_unique<Box>(*inboxes, slot, std::move(pair)));
  }
  return inboxes;
}

Inboxes::~Inboxes() {
  for (std::size_t slot = 0; slot < boxes_.size(); ++slot) {
    leave(slot);
  }
}

int Inboxes::sending(std::size_t slot) const noexcept { return boxes_[slot]->pair.sending.get(); }

int Inboxes::receiving(std::size_t slot) const noexcept {
  return boxes_[slot]->pair.receiving.get();
}

void Inboxes::forward(std::size_t slot) noexcept {
  Box& box = *boxes_[slot];
  box.forwards = true;
  if (!box.watched) {
    box.watched = loop_.watch_level(box.pair.receiving.get(), EPOLLIN, box).has_value();
  }
  if (!box.watched) {
    loop_.wheel().arm(retry_timer_, base::saturating_add(base::Clock::now(), kRetry));
  }
}

void Inboxes::leave(std::size_t slot) noexcept {
  Box& box = *boxes_[slot];
  box.forwards = false;
  if (std::exchange(box.watched, false)) {
    loop_.unwatch(box.pair.receiving.get());
  }
}

void Inboxes::empty(Box& box) noexcept {
  constexpr auto kAny = std::numeric_limits<std::uint64_t>::max();
  while (segment_.lightest(box.slot, kAny, base::Clock::now())) {
    const base::Fd socket = shared::take_socket(box.pair.receiving.get());
    if (!socket.valid()) {
      return;
    }
    if (!pass_on(box.slot, socket.get())) {
      return;  // every inbox is full: this client is turned away, and the next is not taken yet
    }
  }
  // Nobody serves. Not watched meanwhile, since the socket is there.
  loop_.unwatch(box.pair.receiving.get());
  box.watched = false;
  loop_.wheel().arm(retry_timer_, base::saturating_add(base::Clock::now(), kRetry));
}

// To the lightest that serves, else to any other.
bool Inboxes::pass_on(std::size_t from, int socket) noexcept {
  constexpr auto kAny = std::numeric_limits<std::uint64_t>::max();
  const base::Time now = base::Clock::now();
  const auto lightest = segment_.lightest(from, kAny, now);
  if (lightest && shared::pass_socket(sending(lightest->slot), socket)) {
    return true;
  }
  for (const auto& box : boxes_) {
    if (box->slot != from && segment_.live(box->slot, now) &&
        shared::pass_socket(box->pair.sending.get(), socket)) {
      return true;
    }
  }
  return false;
}

void Inboxes::try_again() noexcept {
  for (const auto& box : boxes_) {
    if (box->forwards && !box->watched) {
      forward(box->slot);
    }
  }
}

}  // namespace mik::supervisor
