// The inboxes of all slots (shared/handover.hpp). The supervisor holds both ends, so that what was
// passed to a worker that is gone reaches another, or its successor. Confined to the supervisor's
// loop.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "net/loop.hpp"
#include "shared/handover.hpp"
#include "shared/segment.hpp"

namespace mik::supervisor {

class Inboxes {
 public:
  // Loop and segment outlive it. Errors: kSystem.
  static base::Result<std::unique_ptr<Inboxes>> create(net::Loop& loop, shared::Segment& segment);
  ~Inboxes();
  Inboxes(const Inboxes&) = delete;
  Inboxes& operator=(const Inboxes&) = delete;

  std::size_t size() const noexcept { return boxes_.size(); }
  int sending(std::size_t slot) const noexcept;
  int receiving(std::size_t slot) const noexcept;

  // The slot's worker is gone: sockets in its inbox, and those that somebody still passes to it, go
  // to the workers that serve. Where none does they stay for the successor.
  void forward(std::size_t slot) noexcept;
  // The slot is about to have a worker, which reads the inbox itself.
  void leave(std::size_t slot) noexcept;

 private:
  class Box;

  Inboxes(net::Loop& loop, shared::Segment& segment);
  void empty(Box& box) noexcept;
  bool pass_on(std::size_t from, int socket) noexcept;
  void try_again() noexcept;

  net::Loop& loop_;
  shared::Segment& segment_;
  std::vector<std::unique_ptr<Box>> boxes_;
  net::Timer retry_timer_ = net::Timer::of<&Inboxes::try_again>(this);
};

}  // namespace mik::supervisor
