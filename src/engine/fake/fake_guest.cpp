// What the guests of the fake engine do: see fake_engine.cpp.
#include <chrono>

#include "engine/fake/fake_clock.hpp"
#include "engine/fake/fake_state.hpp"

namespace mik::engine::fake {

namespace {

std::uint32_t fail(Guest& guest, int code, std::string text) {
  guest.over = true;
  guest.code = code;
  guest.error = std::move(text);
  return (guest.head_said ? MIK_EV_ABORT : MIK_EV_FAILED) | MIK_EV_DONE;
}

std::uint32_t head(Guest& guest) {
  if (std::exchange(guest.head_said, true)) {
    return 0;
  }
  return MIK_EV_HEAD;
}

std::uint32_t finish(Guest& guest, std::string_view body) {
  const std::uint32_t bits = head(guest);
  guest.out.push(body);
  guest.over = true;
  return bits | (body.empty() ? 0u : std::uint32_t{MIK_EV_BODY}) | MIK_EV_END | MIK_EV_DONE;
}

std::uint32_t run_echo(mik_loop& /*loop*/, Guest& guest) {
  std::uint32_t bits = head(guest);
  while (!guest.in.pieces.empty() && guest.out.bytes < kOutWindow) {
    guest.out.push(guest.in.pop());
    bits |= MIK_EV_BODY;
  }
  if (guest.in.was_full && guest.in.bytes < kInWindow / 2) {
    guest.in.was_full = false;
    bits |= MIK_EV_NEED_BODY;
  }
  if (guest.in.failed) {
    return bits | fail(guest, MIK_E_TRAP, "the request body failed");
  }
  if (guest.in.pieces.empty() && (guest.in.ended || !guest.has_body)) {
    guest.out.trailers = guest.in.trailers;
    bits |= finish(guest, "");
  }
  return bits;
}

std::uint32_t run_big(Guest& guest) {
  std::uint32_t bits = head(guest);
  while (guest.produced < guest.number * 1024 && guest.out.bytes < kOutWindow) {
    guest.out.push(std::string(1024, 'x'));
    guest.produced += 1024;
    bits |= MIK_EV_BODY;
  }
  return guest.produced < guest.number * 1024 ? bits : bits | finish(guest, "");
}

std::uint32_t run_spin(Guest& guest) {
  // Each slice counts for a millisecond of CPU.
  if (std::uint64_t{guest.runs} * 1'000'000 > guest.cpu_budget_ns) {
    return fail(guest, MIK_E_CPU, "CPU budget used up");
  }
  return guest.number != 0 && guest.runs > guest.number ? finish(guest, "Hello, World!")
                                                        : std::uint32_t{MIK_EV_YIELDED};
}

std::uint32_t run_fetch(mik_loop& loop, mik_req id, Guest& guest) {
  if (guest.outbound == 0) {
    guest.outbound = loop.next_id++;
    guest.outbound_new = true;
    auto out = std::make_unique<Out>();
    out->guest = id;
    loop.outs.emplace(guest.outbound, std::move(out));
    return MIK_EV_OUTBOUND;
  }
  Out* out = loop.find_out(guest.outbound);
  if (out == nullptr || out->error != 0) {
    guest.status = 502;
    const std::string text = "error " + std::to_string(out == nullptr ? guest.code : out->error);
    if (out != nullptr) {
      loop.out_events.push_back({guest.outbound, out->user, MIK_OUT_DROPPED, 0});
    }
    return finish(guest, text);
  }
  if (out->status == 0) {
    return 0;
  }
  guest.status = out->status;
  std::uint32_t bits = head(guest);
  while (!out->response.pieces.empty() && guest.out.bytes < kOutWindow) {
    guest.out.push(out->response.pop());
    bits |= MIK_EV_BODY;
  }
  if (out->response.was_full && out->response.bytes < kInWindow / 2) {
    out->response.was_full = false;
    loop.out_events.push_back({guest.outbound, out->user, MIK_OUT_READ, 0});
  }
  if (out->response.ended && out->response.pieces.empty()) {
    loop.out_events.push_back({guest.outbound, out->user, MIK_OUT_DROPPED, 0});
    bits |= finish(guest, "");
  }
  return bits;
}

std::uint32_t run_sleep(Guest& guest, std::uint64_t now_ns) {
  if (guest.wake_at == MIK_NEVER) {
    guest.wake_at = now_ns + guest.number * 1'000'000;
  }
  return now_ns >= guest.wake_at ? finish(guest, "Hello, World!") : 0;
}

std::uint32_t run_wake(mik_loop& loop, mik_req id, Guest& guest) {
  if (guest.runs > 1) {
    return finish(guest, "Hello, World!");
  }
  loop.threads.emplace_back([&loop, id] {
    {
      const std::scoped_lock lock(loop.mutex);
      loop.remote.push_back(id);
    }
    loop.ops.wake(loop.ops.ctx);
  });
  return 0;
}

// Computes for a millisecond, and is woken again at once.
std::uint32_t run_burn(Guest& guest) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
  while (std::chrono::steady_clock::now() < until) {
  }
  guest.woken = true;
  return 0;
}

std::uint32_t run_work(Guest& guest) {
  const std::uint64_t left = guest.number == 0 ? MIK_NEVER : guest.number * 1000 - guest.worked_ns;
  const std::uint64_t ran = std::min(left, tick_ns);
  guest.worked_ns += ran;
  clock_ns += ran;
  return ran == left ? finish(guest, "Hello, World!") : std::uint32_t{MIK_EV_YIELDED};
}

std::uint32_t run_burst(Guest& guest) {
  clock_ns += guest.number * 1000;
  guest.woken = true;
  return 0;
}

std::uint32_t run_hold(mik_loop& loop, Guest& guest) {
  if (loop.memory_bytes() + guest.number * 1024 > loop.memory_room) {
    return fail(guest, MIK_E_MEMORY, "no room");
  }
  guest.memory_bytes = guest.number * 1024;
  return 0;
}

}  // namespace

std::uint32_t run_guest(mik_loop& loop, mik_req id, Guest& guest, std::uint64_t now_ns) {
  const std::string& what = guest.behaviour;
  static const std::map<std::string, std::pair<int, const char*>> kFailures = {
      {"/trap", {MIK_E_TRAP, "wasm trap: unreachable"}},
      {"/cpu", {MIK_E_CPU, "CPU budget used up"}},
      {"/memory", {MIK_E_MEMORY, "memory limit"}},
      {"/busy", {MIK_E_BUSY, "no slot"}},
      {"/none", {MIK_E_NO_RESPONSE, "no response"}},
      {"/error", {MIK_E_GUEST_ERROR, "internal-error"}}};
  if (const auto found = kFailures.find(what); found != kFailures.end()) {
    return fail(guest, found->second.first, found->second.second);
  }
  if (what == "/echo") {
    return run_echo(loop, guest);
  }
  if (what == "/big") {
    return run_big(guest);
  }
  if (what == "/spin") {
    return run_spin(guest);
  }
  if (what == "/sleep") {
    return run_sleep(guest, now_ns);
  }
  if (what == "/burn") {
    return run_burn(guest);
  }
  if (what == "/work") {
    return run_work(guest);
  }
  if (what == "/burst") {
    return run_burst(guest);
  }
  if (what == "/hold") {
    return run_hold(loop, guest);
  }
  if (what == "/wake") {
    return run_wake(loop, id, guest);
  }
  if (what == "/fetch") {
    return run_fetch(loop, id, guest);
  }
  if (what == "/trap-after-head") {
    if (guest.runs == 1) {
      const std::uint32_t bits = head(guest);
      guest.out.push("partial");
      guest.woken = true;
      return bits | MIK_EV_BODY;
    }
    return fail(guest, MIK_E_TRAP, "wasm trap: unreachable");
  }
  if (what == "/scheme") {
    return finish(guest, guest.https ? "https" : "http");
  }
  if (what == "/not-modified") {
    guest.status = 304;
    return finish(guest, "");
  }
  if (what == "/output") {
    loop.ops.output(loop.ops.ctx, guest.user, 1, str("to stdout"));
    loop.ops.output(loop.ops.ctx, guest.user, 2, str("to stderr"));
  }
  return finish(guest, "Hello, World!");
}

}  // namespace mik::engine::fake
