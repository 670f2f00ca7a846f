// State of the fake engine (fake_engine.cpp): guests, outgoing exchanges and their pipes. Confined
// to its loop's thread but for mik_loop::remote.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "../../../engine/include/engine.h"

struct mik_engine {
  std::uint32_t instances_max = 0;
};

struct mik_component {
  std::uint32_t reuse_max = 1;
};

struct mik_loop;

namespace mik::engine::fake {

inline constexpr std::size_t kInWindow = 128 * 1024;
inline constexpr std::size_t kOutWindow = 256 * 1024;

inline std::string_view view(mik_str text) {
  return {reinterpret_cast<const char*>(text.p), text.n};
}
inline mik_str str(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

using OwnedFields = std::vector<std::pair<std::string, std::string>>;

inline OwnedFields copy(const mik_field* fields, std::size_t count) {
  OwnedFields owned;
  for (std::size_t i = 0; i < count; ++i) {
    owned.emplace_back(view(fields[i].name), view(fields[i].value));
  }
  return owned;
}

inline std::size_t give(const OwnedFields& owned, mik_field* fields, std::size_t cap) {
  for (std::size_t i = 0; i < std::min(cap, owned.size()); ++i) {
    fields[i] = {str(owned[i].first), str(owned[i].second)};
  }
  return owned.size();
}

// Bytes in pieces, as both directions of bodies have them.
struct Pipe {
  std::deque<std::string> pieces;
  std::size_t bytes = 0;
  bool ended = false;
  bool failed = false;
  bool was_full = false;
  OwnedFields trailers;

  void push(std::string_view piece) {
    if (!piece.empty()) {
      pieces.emplace_back(piece);
      bytes += piece.size();
    }
  }
  std::string pop() {
    std::string piece = std::move(pieces.front());
    pieces.pop_front();
    bytes -= piece.size();
    return piece;
  }
  std::size_t peek(mik_str* out, std::size_t cap) const {
    const std::size_t count = std::min(cap, pieces.size());
    for (std::size_t i = 0; i < count; ++i) {
      out[i] = str(pieces[i]);
    }
    return count;
  }
  void consume(std::size_t n) {
    while (n > 0) {
      std::string& front = pieces.front();
      const std::size_t take = std::min(n, front.size());
      front.erase(0, take);
      bytes -= take;
      n -= take;
      if (front.empty()) {
        pieces.pop_front();
      }
    }
  }
};

struct Out {
  mik_req guest = 0;
  std::uint64_t user = 0;
  bool accepted = false;
  Pipe response;
  int status = 0;
  int error = 0;
};

struct Guest {
  std::uint64_t user = 0;
  std::string behaviour;  // the path's first segment
  std::uint64_t number = 0;
  std::string authority;
  std::uint64_t cpu_budget_ns = 0;
  Pipe in;
  Pipe out;
  bool has_body = false;
  bool https = false;
  bool head_said = false;
  bool over = false;
  int code = 0;
  std::string error;
  std::uint32_t runs = 0;
  std::uint64_t worked_ns = 0;  // by fake_clock.hpp
  std::uint64_t memory_bytes = 0;
  std::uint64_t produced = 0;
  std::uint64_t wake_at = MIK_NEVER;
  bool woken = false;
  bool need_body = false;
  int status = 200;
  mik_out outbound = 0;
  bool outbound_new = false;
};

// One step of a guest: MIK_EV_* bits.
std::uint32_t run_guest(::mik_loop& loop, mik_req id, Guest& guest, std::uint64_t now_ns);

}  // namespace mik::engine::fake

struct mik_loop {
  mik_loop_ops ops{};
  std::uint64_t next_id = 1;
  std::map<mik_req, std::unique_ptr<mik::engine::fake::Guest>> guests;
  std::map<mik_out, std::unique_ptr<mik::engine::fake::Out>> outs;
  std::vector<mik_out_event> out_events;
  std::mutex mutex;
  std::vector<mik_req> remote;  // guarded by mutex
  std::vector<std::thread> threads;
  std::uint64_t memory_room = MIK_NEVER;

  std::uint64_t memory_bytes() const {
    std::uint64_t sum = 0;
    for (const auto& [id, guest] : guests) {
      sum += guest->over ? 0 : guest->memory_bytes;
    }
    return sum;
  }

  mik::engine::fake::Guest* find(mik_req id) {
    const auto it = guests.find(id);
    return it == guests.end() ? nullptr : it->second.get();
  }
  mik::engine::fake::Out* find_out(mik_out id) {
    const auto it = outs.find(id);
    return it == outs.end() ? nullptr : it->second.get();
  }
  void wake(mik_req id) {
    if (mik::engine::fake::Guest* guest = find(id); guest != nullptr) {
      guest->woken = true;
    }
  }
};
