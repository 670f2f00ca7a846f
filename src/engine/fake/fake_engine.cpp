// A second implementation of engine.h, in plain C++: so that everything above the engine runs under
// sanitizers, without wasm. The path of a request says what its guest does:
//
//   /hello (and all else)  200, "Hello, World!"          /echo          streams the request body
//   back, with its trailers /trap /cpu /memory /busy /none /error   fails so     /trap-after-head
//   one piece, then the response is cut /sleep?N   answers N ms later, by its own timer /spin?N N
//   slices, then as /hello (0: for ever) /big?N     N KiB, within the window /output        a line
//   on stdout and stderr, then as /hello /burn      computes, waits a moment, for ever /wake is
//   woken from another thread              /fetch         one outgoing request; its answer is the
//   answer
//   /work?N   computes N us by fake_clock.hpp (0: for ever), then as /hello
//   /burst?N  for ever: computes N us by that clock, waits, is woken at once
//   /hold?N   takes N KiB (fails as /memory where there is no room for it) and waits for ever
//
// The rules of engine.h hold: windows, stale ids, events once. Not kept: hop-by-hop fields, CPU
// time.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "engine/fake/fake_state.hpp"

namespace {

using namespace mik::engine::fake;  // NOLINT(google-build-using-namespace): the file is its other
                                    // half

void set_error(mik_err* err, int code, const char* text) {
  if (err != nullptr) {
    err->code = code;
    std::strncpy(err->text, text, sizeof err->text - 1);
  }
}

}  // namespace

extern "C" {

mik_engine* mik_engine_new(const mik_engine_options* options, mik_err* err) {
  if (options->abi != MIK_ENGINE_ABI) {
    set_error(err, MIK_E_INVALID, "another ABI");
    return nullptr;
  }
  return new mik_engine{options->instances_max};
}
void mik_engine_delete(mik_engine* engine) { delete engine; }
void mik_engine_tick(mik_engine* /*engine*/) {}
uint64_t mik_engine_kept_bytes(const mik_engine* /*engine*/) { return 0; }
void mik_engine_artefact_key(const mik_engine* /*engine*/, std::uint8_t key[32]) {
  std::memset(key, 7, 32);
}
const char* mik_engine_version(void) { return "fake 1"; }

int32_t mik_wasm_check(mik_str wasm, mik_err* err) {
  if (!view(wasm).starts_with(std::string_view("\0asm", 4))) {
    set_error(err, MIK_E_NOT_WASM, "not WebAssembly");
    return MIK_E_NOT_WASM;
  }
  return MIK_OK;
}

int32_t mik_compile(const mik_engine* /*engine*/, mik_str wasm, int32_t (*sink)(void*, mik_str),
                    void* ctx, mik_err* /*err*/) {
  return sink(ctx, wasm) == 0 ? MIK_OK : MIK_E_SYSTEM;
}

mik_component* mik_component_load(mik_engine* /*engine*/, int fd,
                                  const mik_component_options* options, mik_err* err) {
  if (fd < 0) {
    set_error(err, MIK_E_SYSTEM, "bad descriptor");
    return nullptr;
  }
  return new mik_component{options->reuse_max};
}
void mik_component_delete(mik_component* component) { delete component; }
uint64_t mik_component_bytes(const mik_component* /*component*/) { return 4096; }

mik_loop* mik_loop_new(mik_engine* /*engine*/, const mik_loop_ops* ops, mik_err* /*err*/) {
  auto* loop = new mik_loop;
  loop->ops = *ops;
  return loop;
}

void mik_loop_delete(mik_loop* loop) {
  for (std::thread& thread : loop->threads) {
    thread.join();
  }
  delete loop;
}

size_t mik_loop_woken(mik_loop* loop, uint64_t now_ns, mik_woken* woken, size_t cap) {
  {
    const std::scoped_lock lock(loop->mutex);
    for (const mik_req id : loop->remote) {
      loop->wake(id);
    }
    loop->remote.clear();
  }
  std::size_t count = 0;
  for (auto& [id, guest] : loop->guests) {
    if (guest->wake_at <= now_ns && !guest->over) {
      guest->woken = true;
    }
    if (guest->woken && !guest->over && count < cap) {
      guest->woken = false;
      woken[count++] = {id, guest->user};
    }
  }
  return count;
}

uint64_t mik_loop_next_timer(const mik_loop* loop) {
  std::uint64_t next = MIK_NEVER;
  for (const auto& [id, guest] : loop->guests) {
    next = guest->over ? next : std::min(next, guest->wake_at);
  }
  return next;
}

void mik_loop_forget(mik_loop* /*loop*/, const mik_component* /*component*/, int /*idle_only*/,
                     uint64_t /*now_ns*/) {}

uint64_t mik_loop_memory(const mik_loop* loop) { return loop->memory_bytes(); }
void mik_loop_set_memory_room(mik_loop* loop, uint64_t bytes) { loop->memory_room = bytes; }

mik_req mik_req_start(mik_loop* loop, mik_component* /*component*/, const mik_head* head,
                      mik_err* err) {
  const std::string_view bytes = view(head->bytes);
  const auto part = [&](mik_slice slice) { return bytes.substr(slice.offset, slice.length); };
  const std::string_view path = part(head->path_query);
  if (path.empty() || part(head->method).empty() || part(head->authority).empty()) {
    set_error(err, MIK_E_INVALID, "not a request");
    return 0;
  }
  auto guest = std::make_unique<Guest>();
  const std::size_t mark = path.find('?');
  guest->behaviour = path.substr(0, mark);
  guest->number = mark == std::string_view::npos
                      ? 0
                      : std::strtoull(std::string(path.substr(mark + 1)).c_str(), nullptr, 10);
  guest->user = head->user;
  guest->authority = part(head->authority);
  guest->cpu_budget_ns = head->cpu_budget_ns;
  guest->has_body = head->body == MIK_BODY_STREAM;
  guest->https = head->https != 0;
  const mik_req id = loop->next_id++;
  loop->guests.emplace(id, std::move(guest));
  return id;
}

uint32_t mik_req_run(mik_loop* loop, mik_req req, uint64_t now_ns, uint64_t /*slice_ns*/) {
  Guest* guest = loop->find(req);
  if (guest == nullptr || guest->over) {
    return 0;
  }
  ++guest->runs;
  return run_guest(*loop, req, *guest, now_ns);
}

int mik_req_body_push(mik_loop* loop, mik_req req, mik_str bytes) {
  Guest* guest = loop->find(req);
  if (guest == nullptr || guest->over || guest->behaviour != "/echo") {
    return -1;
  }
  guest->in.push(view(bytes));
  guest->woken = true;
  guest->in.was_full = guest->in.was_full || guest->in.bytes >= kInWindow;
  return guest->in.bytes >= kInWindow ? 1 : 0;
}

void mik_req_body_end(mik_loop* loop, mik_req req, const mik_field* trailers, size_t count) {
  if (Guest* guest = loop->find(req); guest != nullptr) {
    guest->in.ended = true;
    guest->in.trailers = copy(trailers, count);
    guest->woken = true;
  }
}

void mik_req_body_fail(mik_loop* loop, mik_req req) {
  if (Guest* guest = loop->find(req); guest != nullptr) {
    guest->in.failed = true;
    guest->woken = true;
  }
}

int mik_resp_head(mik_loop* loop, mik_req req, mik_resp* resp, mik_field* fields, size_t cap) {
  Guest* guest = loop->find(req);
  if (guest == nullptr || !guest->head_said) {
    return -1;
  }
  resp->status = static_cast<std::uint16_t>(guest->status);
  resp->content_length = MIK_LENGTH_UNKNOWN;
  static const OwnedFields kFields = {{"content-type", "text/plain"}};
  static const OwnedFields kOfNotModified = {{"etag", "\"x\""}};
  resp->field_count = give(guest->status == 304 ? kOfNotModified : kFields, fields, cap);
  return 0;
}

size_t mik_resp_peek(mik_loop* loop, mik_req req, mik_str* pieces, size_t cap) {
  Guest* guest = loop->find(req);
  return guest == nullptr ? 0 : guest->out.peek(pieces, cap);
}

void mik_resp_consume(mik_loop* loop, mik_req req, size_t bytes) {
  if (Guest* guest = loop->find(req); guest != nullptr) {
    const bool full = guest->out.bytes >= kOutWindow;
    guest->out.consume(bytes);
    guest->woken = guest->woken || (full && guest->out.bytes < kOutWindow);
  }
}

size_t mik_resp_trailers(mik_loop* loop, mik_req req, mik_field* fields, size_t cap) {
  Guest* guest = loop->find(req);
  return guest == nullptr ? 0 : give(guest->out.trailers, fields, cap);
}

int32_t mik_req_error(mik_loop* loop, mik_req req, mik_str* text) {
  Guest* guest = loop->find(req);
  *text = guest == nullptr ? mik_str{} : str(guest->error);
  return guest == nullptr ? MIK_E_INVALID : guest->code;
}

void mik_req_stats(mik_loop* loop, mik_req req, mik_stats* stats) {
  *stats = {};
  if (Guest* guest = loop->find(req); guest != nullptr) {
    stats->runs = guest->runs;
    stats->memory_bytes = guest->over ? 0 : guest->memory_bytes;
    stats->memory_bytes_peak = guest->memory_bytes;
  }
}

uint64_t mik_req_memory(mik_loop* loop, mik_req req) {
  Guest* guest = loop->find(req);
  return guest == nullptr || guest->over ? 0 : guest->memory_bytes;
}

void mik_req_release(mik_loop* loop, mik_req req) {
  Guest* guest = loop->find(req);
  if (guest == nullptr) {
    return;
  }
  if (Out* out = loop->find_out(guest->outbound); out != nullptr && !guest->over) {
    if (out->accepted) {
      loop->out_events.push_back({guest->outbound, out->user, MIK_OUT_DROPPED, 0});
    } else {
      loop->outs.erase(guest->outbound);
    }
  }
  loop->guests.erase(req);
}

mik_out mik_req_outbound(mik_loop* loop, mik_req req) {
  Guest* guest = loop->find(req);
  return guest != nullptr && std::exchange(guest->outbound_new, false) ? guest->outbound : 0;
}

int mik_out_head_get(mik_loop* loop, mik_out out, mik_out_head* head, mik_field* /*fields*/,
                     size_t /*cap*/) {
  Out* one = loop->find_out(out);
  if (one == nullptr) {
    return -1;
  }
  *head = {};
  head->method = str("GET");
  head->scheme = str("http");
  // The guest calls the host that its own request was for.
  head->authority = str(loop->find(one->guest)->authority);
  head->path_query = str("/upstream");
  head->content_length = MIK_LENGTH_UNKNOWN;
  head->connect_timeout_ns = head->first_byte_timeout_ns = head->between_bytes_timeout_ns =
      MIK_NEVER;
  return 0;
}

void mik_out_accept(mik_loop* loop, mik_out out, uint64_t user) {
  if (Out* one = loop->find_out(out); one != nullptr) {
    one->accepted = true;
    one->user = user;
  }
}

void mik_out_refuse(mik_loop* loop, mik_out out, int32_t http_error) {
  if (Out* one = loop->find_out(out); one != nullptr) {
    if (Guest* guest = loop->find(one->guest); guest != nullptr) {
      guest->code = http_error;
    }
    loop->wake(one->guest);
    loop->outs.erase(out);
  }
}

size_t mik_loop_out_events(mik_loop* loop, mik_out_event* events, size_t cap) {
  const std::size_t count = std::min(cap, loop->out_events.size());
  std::copy_n(loop->out_events.begin(), count, events);
  loop->out_events.erase(loop->out_events.begin(),
                         loop->out_events.begin() + static_cast<std::ptrdiff_t>(count));
  return count;
}

size_t mik_out_peek(mik_loop* /*loop*/, mik_out /*out*/, mik_str* /*pieces*/, size_t /*cap*/) {
  return 0;
}
void mik_out_consume(mik_loop* /*loop*/, mik_out /*out*/, size_t /*bytes*/) {}

void mik_out_respond(mik_loop* loop, mik_out out, uint16_t status, const mik_field* /*fields*/,
                     size_t /*count*/) {
  if (Out* one = loop->find_out(out); one != nullptr) {
    one->status = status;
    loop->wake(one->guest);
  }
}

int mik_out_push(mik_loop* loop, mik_out out, mik_str bytes) {
  Out* one = loop->find_out(out);
  if (one == nullptr || loop->find(one->guest) == nullptr) {
    return -1;
  }
  one->response.push(view(bytes));
  loop->wake(one->guest);
  one->response.was_full = one->response.was_full || one->response.bytes >= kInWindow;
  return one->response.bytes >= kInWindow ? 1 : 0;
}

void mik_out_end(mik_loop* loop, mik_out out, const mik_field* /*trailers*/, size_t /*count*/) {
  if (Out* one = loop->find_out(out); one != nullptr) {
    one->response.ended = true;
    loop->wake(one->guest);
  }
}

void mik_out_fail(mik_loop* loop, mik_out out, int32_t http_error) {
  if (Out* one = loop->find_out(out); one != nullptr) {
    one->error = http_error;
    loop->wake(one->guest);
  }
}

void mik_out_release(mik_loop* loop, mik_out out) { loop->outs.erase(out); }

}  // extern "C"
