#include "net/loop.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace mik::net {

namespace {

constexpr int kEventsPerWait = 128;

base::Result<void> control(int epoll, int operation, int fd, std::uint32_t events,
                           IoHandler* handler) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = handler;
  if (::epoll_ctl(epoll, operation, fd, &event) != 0) {
    return base::Error::from_errno("epoll_ctl", errno);
  }
  return {};
}

}  // namespace

base::Result<std::unique_ptr<Loop>> Loop::create() {
  base::Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return base::Error::from_errno("epoll_create1", errno);
  }
  base::Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) {
    return base::Error::from_errno("eventfd", errno);
  }
  MIK_TRY(control(epoll.get(), EPOLL_CTL_ADD, event.get(), EPOLLIN | EPOLLET, nullptr));
  return std::unique_ptr<Loop>(new Loop(std::move(epoll), std::move(event)));
}

Loop::Loop(base::Fd epoll, base::Fd event)
    : epoll_(std::move(epoll)), event_(std::move(event)), now_(base::Clock::now()), wheel_(now_) {}

Loop::~Loop() { retired_.clear(); }

base::Result<void> Loop::watch(int fd, std::uint32_t events, IoHandler& handler) {
  return control(epoll_.get(), EPOLL_CTL_ADD, fd, events | EPOLLET, &handler);
}

base::Result<void> Loop::watch_level(int fd, std::uint32_t events, IoHandler& handler) {
  return control(epoll_.get(), EPOLL_CTL_ADD, fd, events, &handler);
}

base::Result<void> Loop::rewatch_level(int fd, std::uint32_t events, IoHandler& handler) {
  return control(epoll_.get(), EPOLL_CTL_MOD, fd, events, &handler);
}

void Loop::unwatch(int fd) noexcept { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

void Loop::retire(std::unique_ptr<IoHandler> object) { retired_.push_back(std::move(object)); }

void Loop::post(Task task) { posted_.push_back(std::move(task)); }

void Loop::post_from_any_thread(Task task) {
  {
    const std::scoped_lock lock(remote_mutex_);
    remote_.push_back(std::move(task));
  }
  wake();
}

void Loop::wake() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(event_.get(), &one, sizeof one);
}

int Loop::wait_timeout_ms(base::Duration max_wait) {
  if (hook_busy_ || !posted_.empty()) {
    return 0;
  }
  base::Time until = wheel_.next_deadline();
  if (hook_ != nullptr) {
    until = std::min(until, hook_->next_deadline());
  }
  until = std::min(until, base::saturating_add(now_, max_wait));
  if (until == base::kNever) {
    return -1;
  }
  const auto left = until - base::Clock::now();
  if (left <= base::Duration::zero()) {
    return 0;
  }
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::min<std::int64_t>(ms, 60'000));
}

void Loop::take_remote() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(event_.get(), &count, sizeof count);
  const std::scoped_lock lock(remote_mutex_);
  std::ranges::move(remote_, std::back_inserter(posted_));
  remote_.clear();
}

void Loop::run_posted() {
  // What these post waits for the next turn, so that a turn ends.
  std::vector<Task> tasks;
  tasks.swap(posted_);
  for (Task& task : tasks) {
    task();
  }
}

void Loop::run_once(base::Duration max_wait) {
  std::array<epoll_event, kEventsPerWait> events;
  const int count =
      ::epoll_wait(epoll_.get(), events.data(), kEventsPerWait, wait_timeout_ms(max_wait));
  refresh_now();
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    if (event.data.ptr == nullptr) {
      take_remote();
      continue;
    }
    static_cast<IoHandler*>(event.data.ptr)->on_io(event.events);
  }
  wheel_.advance(now_);
  if (!posted_.empty()) {
    run_posted();
  }
  if (hook_ != nullptr) {
    hook_busy_ = hook_->on_turn(now_);
  }
  if (!retired_.empty()) {
    // Destructors may retire others.
    std::vector<std::unique_ptr<IoHandler>> retired;
    retired.swap(retired_);
  }
}

void Loop::run() {
  stopped_ = false;
  while (!stopped_) {
    run_once(base::Duration::max());
  }
}

}  // namespace mik::net
