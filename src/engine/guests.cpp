#include <algorithm>
#include <ctime>
#include <functional>

#include "engine/convert.hpp"
#include "engine/engine.hpp"
#include "engine/memory_return.hpp"

namespace mik::engine {

namespace {

std::uint64_t duration_to_c(base::Duration duration) noexcept {
  return duration == base::Duration::max() ? MIK_NEVER
                                           : static_cast<std::uint64_t>(duration.count());
}

base::Duration duration_from_c(std::uint64_t ns) noexcept {
  return ns >= static_cast<std::uint64_t>(INT64_MAX)
             ? base::Duration::max()
             : base::Duration(static_cast<std::int64_t>(ns));
}

Push push_from_c(int result) noexcept {
  if (result < 0) {
    return Push::kUnwanted;
  }
  return result == 0 ? Push::kGoOn : Push::kFull;
}

Failure failure_from_c(int code) noexcept {
  switch (code) {
    case MIK_E_NO_RESPONSE:
      return Failure::kNoResponse;
    case MIK_E_GUEST_ERROR:
      return Failure::kGuestError;
    case MIK_E_CPU:
      return Failure::kCpu;
    case MIK_E_MEMORY:
      return Failure::kMemory;
    case MIK_E_BODY:
      return Failure::kBody;
    case MIK_E_BUSY:
      return Failure::kBusy;
    case MIK_E_PANIC:
    case MIK_E_INVALID:
    case MIK_E_SYSTEM:
      return Failure::kInternal;
    default:
      return Failure::kTrap;
  }
}

constexpr std::size_t kInitialFields = 32;

// What giving a byte back may take, in ns: few of the pages were written, or the machine is slow.
constexpr double kReturnRateMin = 0.01;
constexpr double kReturnRateMax = 0.2;
// Over so many bytes it is averaged.
constexpr double kReturnRateOver = 64 << 20;

base::Duration thread_cpu() noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace

// Scratch that calls share, so that a request allocates nothing here.
struct Guests::Storage {
  std::string block;
  std::vector<mik_field_slice> slices;
  std::vector<mik_field> c_fields = std::vector<mik_field>(kInitialFields);
  std::vector<Field> fields;
  std::vector<mik_str> pieces;
  std::vector<mik_field> collected;
  std::vector<mik_woken> woken;
  std::vector<mik_out_event> out_events;

  std::span<const Field> convert(std::size_t count) {
    fields.clear();
    for (std::size_t i = 0; i < count; ++i) {
      fields.push_back({from_c(c_fields[i].name), from_c(c_fields[i].value)});
    }
    return fields;
  }
};

Guests::Guests() : storage_(std::make_unique<Storage>()) {}

Guests::~Guests() {
  if (loop_ != nullptr) {
    mik_loop_delete(loop_);
  }
  return_in_pieces(0);
  while (return_some()) {
  }
}

base::Result<std::unique_ptr<Guests>> Guests::create(const Engine& engine, Observer& observer) {
  std::unique_ptr<Guests> guests(new Guests());
  guests->engine_ = &engine;
  mik_loop_ops ops{};
  ops.ctx = &observer;
  ops.wake = [](void* context) { static_cast<Observer*>(context)->on_wake(); };
  ops.output = [](void* context, std::uint64_t user, int stream, mik_str line) {
    static_cast<Observer*>(context)->on_output(user, stream, from_c(line));
  };
  mik_err error{};
  guests->loop_ = mik_loop_new(engine.handle(), &ops, &error);
  if (guests->loop_ == nullptr) {
    return to_error(error);
  }
  return_in_pieces(engine.waiting_bytes_max());
  return guests;
}

std::size_t Guests::take_woken(base::Time now, std::span<Woken> woken) {
  std::vector<mik_woken>& c = storage_->woken;
  c.resize(woken.size());
  const std::size_t count = mik_loop_woken(loop_, base::to_ns(now), c.data(), c.size());
  for (std::size_t i = 0; i < count; ++i) {
    woken[i] = {c[i].req, c[i].user};
  }
  return count;
}

base::Time Guests::next_timer() const { return base::from_ns(mik_loop_next_timer(loop_)); }

void Guests::drop_idle(base::Time now) { mik_loop_forget(loop_, nullptr, 1, base::to_ns(now)); }

void Guests::drop_kept(const Component& component) {
  mik_loop_forget(loop_, component.handle(), 0, 0);
}

void Guests::drop_all_kept() { mik_loop_forget(loop_, nullptr, 0, 0); }

std::uint64_t Guests::memory_bytes() const noexcept { return mik_loop_memory(loop_); }

void Guests::set_memory_room(std::uint64_t bytes) noexcept {
  mik_loop_set_memory_room(loop_, bytes);
}
void Guests::forget(const Component& component) {
  mik_loop_forget(loop_, component.handle(), 0, 0);
}

bool Guests::tidy() noexcept {
  engine_->bound_kept();
  const std::uint64_t before = bytes_to_return();
  if (before == 0) {
    return false;
  }
  const base::Duration start = thread_cpu();
  const bool more = return_some();
  const auto took = static_cast<double>((thread_cpu() - start).count());
  const auto bytes = static_cast<double>(before - bytes_to_return());
  const double weight = std::min(bytes / kReturnRateOver, 1.0);
  return_ns_per_byte_ += (took / bytes - return_ns_per_byte_) * weight;
  return_ns_per_byte_ = std::clamp(return_ns_per_byte_, kReturnRateMin, kReturnRateMax);
  return more;
}

base::Duration Guests::put_off() noexcept {
  const auto bytes = static_cast<double>(take_bytes_moved());
  return base::Duration(static_cast<std::int64_t>(bytes * return_ns_per_byte_));
}

namespace {

// Turns views into slices of one block. What does not lie in the block is added to a copy of it.
class Placer {
 public:
  Placer(std::string_view block, std::string& scratch) : block_(block), scratch_(scratch) {
    scratch_.clear();
  }

  mik_slice place(std::string_view part) {
    if (part.empty()) {
      return {0, 0};
    }
    const auto size = static_cast<std::uint32_t>(part.size());
    const std::less_equal<const char*> at_most;
    if (at_most(block_.data(), part.data()) &&
        at_most(part.data() + part.size(), block_.data() + block_.size())) {
      return {static_cast<std::uint32_t>(part.data() - block_.data()), size};
    }
    if (scratch_.empty()) {
      scratch_ = block_;
    }
    const auto offset = static_cast<std::uint32_t>(scratch_.size());
    scratch_ += part;
    return {offset, size};
  }

  std::string_view block() const noexcept { return scratch_.empty() ? block_ : scratch_; }

 private:
  std::string_view block_;
  std::string& scratch_;
};

}  // namespace

void Guests::begin_fields(std::size_t count) {
  storage_->fields.clear();
  storage_->fields.reserve(count);
}

void Guests::add_field(std::string_view name, std::string_view value) {
  storage_->fields.push_back({name, value});
}

base::Result<RequestId> Guests::start_collected(const Component& component, const Head& head) {
  Placer placer(head.bytes, storage_->block);
  storage_->slices.clear();
  for (const Field& field : storage_->fields) {
    storage_->slices.push_back({placer.place(field.name), placer.place(field.value)});
  }
  mik_head c{};
  c.method = placer.place(head.method);
  c.authority = placer.place(head.authority);
  c.path_query = placer.place(head.path_query);
  c.bytes = to_c(placer.block());
  c.fields = storage_->slices.data();
  c.field_count = storage_->slices.size();
  c.https = head.https ? 1 : 0;
  c.body = head.has_body ? MIK_BODY_STREAM : MIK_BODY_NONE;
  c.user = head.user;
  c.cpu_budget_ns = duration_to_c(head.cpu_budget);
  mik_err error{};
  const mik_req id = mik_req_start(loop_, component.handle(), &c, &error);
  if (id == 0) {
    return to_error(error);
  }
  return id;
}

Events Guests::run(RequestId id, base::Time now, base::Duration slice) {
  return Events{mik_req_run(loop_, id, base::to_ns(now), duration_to_c(slice))};
}

Push Guests::push_body(RequestId id, std::string_view bytes) {
  return push_from_c(mik_req_body_push(loop_, id, to_c(bytes)));
}

void Guests::begin_trailers(std::size_t count) {
  storage_->collected.clear();
  storage_->collected.reserve(count);
}

void Guests::add_trailer(std::string_view name, std::string_view value) {
  storage_->collected.push_back({to_c(name), to_c(value)});
}

void Guests::end_body_collected(RequestId id) {
  mik_req_body_end(loop_, id, storage_->collected.data(), storage_->collected.size());
}

void Guests::fail_body(RequestId id) { mik_req_body_fail(loop_, id); }

Response Guests::response_head(RequestId id) {
  std::vector<mik_field>& c = storage_->c_fields;
  mik_resp head{};
  if (mik_resp_head(loop_, id, &head, c.data(), c.size()) != 0) {
    return {};
  }
  if (head.field_count > c.size()) {
    c.resize(head.field_count);
    static_cast<void>(mik_resp_head(loop_, id, &head, c.data(), c.size()));
  }
  Response response;
  response.status = head.status;
  response.has_content_length = head.content_length != MIK_LENGTH_UNKNOWN;
  response.content_length = head.content_length;
  response.fields = storage_->convert(std::min<std::size_t>(head.field_count, c.size()));
  return response;
}

std::size_t Guests::peek_collected(RequestId id, std::size_t cap) {
  storage_->pieces.resize(cap);
  return mik_resp_peek(loop_, id, storage_->pieces.data(), cap);
}

std::string_view Guests::piece(std::size_t index) const noexcept {
  return from_c(storage_->pieces[index]);
}

void Guests::consume(RequestId id, std::size_t bytes) { mik_resp_consume(loop_, id, bytes); }

std::span<const Field> Guests::trailers(RequestId id) {
  std::vector<mik_field>& c = storage_->c_fields;
  std::size_t count = mik_resp_trailers(loop_, id, c.data(), c.size());
  if (count > c.size()) {
    c.resize(count);
    count = std::min(mik_resp_trailers(loop_, id, c.data(), c.size()), c.size());
  }
  return storage_->convert(count);
}

RequestFailure Guests::failure(RequestId id) {
  mik_str text{};
  const int code = mik_req_error(loop_, id, &text);
  return {failure_from_c(code), from_c(text)};
}

Stats Guests::stats(RequestId id) {
  mik_stats c{};
  mik_req_stats(loop_, id, &c);
  Stats stats;
  stats.cpu = duration_from_c(c.cpu_ns);
  stats.instantiate = duration_from_c(c.instantiate_ns);
  stats.memory_bytes_peak = c.memory_bytes_peak;
  stats.memory_bytes = c.memory_bytes;
  stats.runs = c.runs;
  stats.outbound = c.outbound;
  stats.reuse_index = c.reuse_index;
  return stats;
}

std::uint64_t Guests::memory_bytes(RequestId id) noexcept { return mik_req_memory(loop_, id); }

void Guests::release(RequestId id) { mik_req_release(loop_, id); }

OutboundId Guests::next_outbound(RequestId id) { return mik_req_outbound(loop_, id); }

OutboundHead Guests::outbound_head(OutboundId id) {
  std::vector<mik_field>& c = storage_->c_fields;
  mik_out_head head{};
  if (mik_out_head_get(loop_, id, &head, c.data(), c.size()) != 0) {
    return {};
  }
  if (head.field_count > c.size()) {
    c.resize(head.field_count);
    static_cast<void>(mik_out_head_get(loop_, id, &head, c.data(), c.size()));
  }
  OutboundHead out;
  out.method = from_c(head.method);
  out.scheme = from_c(head.scheme);
  out.authority = from_c(head.authority);
  out.path_query = from_c(head.path_query);
  out.fields = storage_->convert(std::min<std::size_t>(head.field_count, c.size()));
  out.has_body = head.body != MIK_BODY_NONE;
  out.has_content_length = head.content_length != MIK_LENGTH_UNKNOWN;
  out.content_length = head.content_length;
  out.connect_timeout = duration_from_c(head.connect_timeout_ns);
  out.first_byte_timeout = duration_from_c(head.first_byte_timeout_ns);
  out.between_bytes_timeout = duration_from_c(head.between_bytes_timeout_ns);
  return out;
}

void Guests::accept(OutboundId id, std::uint64_t user) { mik_out_accept(loop_, id, user); }

void Guests::refuse(OutboundId id, int http_error) { mik_out_refuse(loop_, id, http_error); }

std::size_t Guests::take_outbound_events(std::span<OutboundEvents> events) {
  std::vector<mik_out_event>& c = storage_->out_events;
  c.resize(events.size());
  const std::size_t count = mik_loop_out_events(loop_, c.data(), c.size());
  for (std::size_t i = 0; i < count; ++i) {
    events[i] = {c[i].out, c[i].user, c[i].bits};
  }
  return count;
}

std::size_t Guests::outbound_peek_collected(OutboundId id, std::size_t cap) {
  storage_->pieces.resize(cap);
  return mik_out_peek(loop_, id, storage_->pieces.data(), cap);
}

void Guests::outbound_consume(OutboundId id, std::size_t bytes) {
  mik_out_consume(loop_, id, bytes);
}

void Guests::outbound_respond_collected(OutboundId id, int status) {
  mik_out_respond(loop_, id, static_cast<std::uint16_t>(status), storage_->collected.data(),
                  storage_->collected.size());
}

Push Guests::outbound_push(OutboundId id, std::string_view bytes) {
  return push_from_c(mik_out_push(loop_, id, to_c(bytes)));
}

void Guests::outbound_end_collected(OutboundId id) {
  mik_out_end(loop_, id, storage_->collected.data(), storage_->collected.size());
}

void Guests::outbound_fail(OutboundId id, int http_error) { mik_out_fail(loop_, id, http_error); }

void Guests::outbound_release(OutboundId id) { mik_out_release(loop_, id); }

}  // namespace mik::engine
