#include "http/compression.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "base/assert.hpp"
#include "http/compressed_body.hpp"
#include "http/conditional.hpp"
#include "http/list_field.hpp"

namespace mik::http {

namespace {

// Of equals the first: the best ratio for its CPU time.
constexpr std::array kPreferred = {Coding::kZstd, Coding::kBrotli, Coding::kGzip};
constexpr std::size_t kEncoderBytesMax = 32 * 1024 * 1024;
constexpr std::ptrdiff_t kIdleEncodersMax = 3;  // of each coding
constexpr std::size_t kOnLoopMax = 64 * 1024;   // as CompressedBody
constexpr std::string_view kVary = "Accept-Encoding";

char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }

bool contains_lower(std::string_view text, std::string_view part) noexcept {
  return std::ranges::search(text, part, {}, lower).begin() != text.end();
}

bool lists_item(std::string_view list, std::string_view item) noexcept {
  while (!list.empty()) {
    if (equals_lower(take_item(list), item)) {
      return true;
    }
  }
  return false;
}

struct Looked {
  bool typed = false;
  bool compressible = false;
  bool untouchable = false;
};

Looked look_at(std::span<const Field> fields) noexcept {
  Looked looked;
  for (const Field& field : fields) {
    switch (field.name.size()) {  // decides most of them without a comparison
      case 6:
        looked.untouchable |= equals_lower(field.name, "digest");
        break;
      case 11:
        looked.untouchable |=
            equals_lower(field.name, "content-md5") || equals_lower(field.name, "repr-digest");
        break;
      case 12:
        if (equals_lower(field.name, "content-type")) {
          looked.typed = true;
          looked.compressible |= is_compressible_type(field.value);
        }
        break;
      case 13:
        looked.untouchable |=
            equals_lower(field.name, "content-range") ||
            (equals_lower(field.name, "cache-control") && lists_item(field.value, "no-transform"));
        break;
      case 14:
        looked.untouchable |= equals_lower(field.name, "content-digest");
        break;
      case 16:
        looked.untouchable |= equals_lower(field.name, "content-encoding");
        break;
      default:
        break;
    }
  }
  return looked;
}

// The whole of a large body, kept until it is sent.
class WholeBody final : public ExchangeHandler {
 public:
  static WholeBody& make(std::string_view text) {
    auto body = std::make_unique<WholeBody>(text);
    WholeBody& made = *body;
    made.self_ = std::move(body);
    return made;
  }
  explicit WholeBody(std::string_view text) : text_(text) {}

  Flow on_body(std::string_view /*bytes*/) override { return Flow::kGoOn; }
  void on_body_end(std::span<const Field> /*trailers*/) override {}
  void on_body_error(BodyError /*error*/) override {}
  std::size_t peek(std::span<iovec> pieces) override {
    if (sent_ == text_.size()) {
      return 0;
    }
    pieces[0] = {.iov_base = text_.data() + sent_, .iov_len = text_.size() - sent_};
    return 1;
  }
  void consume(std::size_t bytes) override { sent_ += bytes; }
  SourceState source_state() override { return SourceState::kEnd; }
  std::span<const Field> trailers() override { return {}; }
  void on_closed(const Closed& /*closed*/) override {
    const std::unique_ptr<WholeBody> self = std::move(self_);  // its end
  }

 private:
  std::string text_;
  std::size_t sent_ = 0;
  std::unique_ptr<WholeBody> self_;
};

}  // namespace

bool is_compressible_type(std::string_view type) noexcept {
  type = trim_blanks(type.substr(0, type.find(';')));
  if (equals_lower(type, "text/event-stream")) {
    return false;
  }
  return equals_lower(type.substr(0, 5), "text/") || contains_lower(type, "json") ||
         contains_lower(type, "xml") || contains_lower(type, "javascript");
}

Compression::Compression(net::Loop& loop, net::Offload& offload, Mode mode)
    : loop_(loop), offload_(offload), mode_(mode) {}

Compression::~Compression() = default;

Compression::Wanted Compression::wanted(std::span<const Field> request_fields) const noexcept {
  if (mode_ == Mode::kOff) {
    return {};
  }
  return {accepted_codings(request_fields), has_strong_etags_only(request_fields)};
}

Coding Compression::prepare(const Wanted& wanted, int status, std::vector<Field>& fields,
                            std::optional<std::uint64_t>& length) {
  give_encoder(prepared_.coding, std::move(prepared_.encoder));
  if (mode_ == Mode::kOff || status < 200 || status == 204 || status == 205 || status == 206) {
    return Coding::kIdentity;
  }
  const Looked looked = look_at(fields);
  // A 304 seldom says its type.
  if (looked.untouchable || !(looked.compressible || (status == 304 && !looked.typed))) {
    return Coding::kIdentity;
  }
  add_vary(fields);
  if (status == 304) {
    if (wanted.codings.any() && !wanted.has_strong_etags_only) {
      weaken_etag(fields);
    }
    return Coding::kIdentity;
  }
  const Coding coding = best_coding(wanted.codings, kPreferred);
  if (coding == Coding::kIdentity || length.value_or(kCompressFrom) < kCompressFrom) {
    return Coding::kIdentity;
  }
  prepared_ = {coding, take_encoder(coding)};
  if (prepared_.encoder == nullptr) {
    return Coding::kIdentity;
  }
  // Ranges would be of what nobody has: the compressed bytes differ from time to time.
  std::erase_if(fields,
                [](const Field& field) { return equals_lower(field.name, "accept-ranges"); });
  fields.push_back({"Content-Encoding", coding_name(coding)});
  weaken_etag(fields);
  length.reset();
  return coding;
}

void Compression::attach(Exchange& exchange, ExchangeHandler& source, Coding coding) {
  MIK_ASSERT(prepared_.encoder != nullptr && prepared_.coding == coding);
  if (idle_.empty()) {
    all_.push_back(std::make_unique<CompressedBody>(*this));
    idle_.push_back(all_.back().get());
  }
  CompressedBody& body = *idle_.back();
  idle_.pop_back();
  body.begin(exchange, source, coding, std::move(prepared_.encoder));
}

std::size_t Compression::respond(Exchange& exchange, const Wanted& wanted, int status,
                                 std::vector<Field>& fields, std::string_view body) {
  std::optional<std::uint64_t> length = body.size();
  const Coding coding = prepare(wanted, status, fields, length);
  const ResponseHead head{.status = status, .fields = fields, .content_length = length};
  if (coding == Coding::kIdentity) {
    exchange.respond(head, body);
    return body.size();
  }
  if (body.size() > kOnLoopMax) {
    attach(exchange, WholeBody::make(body), coding);
    exchange.start(head);
    exchange.pump();
    return 0;
  }
  encoded_.clear();
  if (prepared_.encoder->encode(body, EncodeStep::kEnd, encoded_)) {
    exchange.respond(head, encoded_);
  } else {
    exchange.abort();
  }
  give_encoder(prepared_.coding, std::move(prepared_.encoder));
  return encoded_.size();
}

std::unique_ptr<Encoder> Compression::take_encoder(Coding coding) {
  const std::size_t bytes = encoder_bytes(coding);
  if (bytes_ + bytes > kEncoderBytesMax) {
    return nullptr;
  }
  std::unique_ptr<Encoder> encoder;
  const auto idle = std::ranges::find(idle_encoders_, coding, &Idle::coding);
  if (idle != idle_encoders_.end()) {
    encoder = std::move(idle->encoder);
    std::swap(*idle, idle_encoders_.back());
    idle_encoders_.pop_back();
  } else {
    encoder = make_encoder(coding);
  }
  if (encoder != nullptr) {
    bytes_ += bytes;
    ++streams_;
  }
  return encoder;
}

void Compression::give_encoder(Coding coding, std::unique_ptr<Encoder> encoder) {
  if (encoder == nullptr) {
    return;
  }
  bytes_ -= encoder_bytes(coding);
  --streams_;
  const auto idle = std::ranges::count(idle_encoders_, coding, &Idle::coding);
  if (idle < kIdleEncodersMax && encoder->reset()) {
    idle_encoders_.push_back({coding, std::move(encoder)});
  }
}

// Kept for ever: a job that still runs may know it.
void Compression::put(CompressedBody& body) { idle_.push_back(&body); }

void Compression::add_vary(std::vector<Field>& fields) {
  Field* last = nullptr;
  for (Field& field : fields) {
    if (equals_lower(field.name, "vary")) {
      if (lists_item(field.value, "*") || lists_item(field.value, "accept-encoding")) {
        return;
      }
      last = &field;
    }
  }
  if (last == nullptr) {
    fields.push_back({"Vary", kVary});
    return;
  }
  vary_ = last->value;
  vary_ += vary_.empty() ? "" : ", ";
  vary_ += kVary;
  last->value = vary_;
}

void Compression::weaken_etag(std::vector<Field>& fields) {
  const auto etag = std::ranges::find_if(
      fields, [](const Field& field) { return equals_lower(field.name, "etag"); });
  if (etag != fields.end() && etag->value.starts_with('"')) {
    etag_ = "W/";
    etag_ += etag->value;
    etag->value = etag_;
  }
}

}  // namespace mik::http
