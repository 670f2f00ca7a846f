#include "runtime/metrics.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mik::runtime {

namespace {

// A connection writes a few of them at once, and then looks at others.
constexpr std::size_t kPieceBytes = 16 * 1024;

}  // namespace

// By format; only what was asked for.
struct Metrics::Texts {
  std::array<std::shared_ptr<const std::string>, kMetricsFormats> by_format;
};

class Metrics::Scrape final : public http::ExchangeHandler {
 public:
  enum class State : std::uint8_t { kWaiting, kBuilding, kSending };

  Scrape(Metrics& owner, http::Exchange& exchange, http::Compression& compression,
         std::string_view request_id, std::string_view traceparent)
      : owner_(owner),
        exchange_(exchange),
        compression_(compression),
        wanted_(compression.wanted(exchange.head().fields)),
        head_only_(exchange.head().method == "HEAD"),
        request_id_(request_id),
        traceparent_(traceparent),
        format_(metrics_format(exchange.head().fields)),
        started_(owner.loop_.now()) {}

  MetricsFormat format() const noexcept { return format_; }

  // May be gone afterwards.
  void send(std::shared_ptr<const std::string> text) {
    text_ = std::move(text);
    std::vector<http::Field> fields = {{"Content-Type", content_type(format_)},
                                       {"Vary", "Accept"},
                                       {"X-Request-ID", request_id_},
                                       {"traceparent", traceparent_}};
    std::optional<std::uint64_t> length = text_->size();
    const http::Coding coding = compression_.prepare(wanted_, 200, fields, length);
    if (coding != http::Coding::kIdentity && !head_only_) {
      compression_.attach(exchange_, *this, coding);
    }
    http::ResponseHead head;
    head.fields = fields;
    head.content_length = length;
    exchange_.start(head);
    exchange_.pump();
  }
  void fail() { exchange_.abort(); }

  http::Flow on_body(std::string_view /*bytes*/) override { return http::Flow::kGoOn; }
  void on_body_end(std::span<const http::Field> /*trailers*/) override {}
  void on_body_error(http::BodyError /*error*/) override { exchange_.abort(); }
  std::size_t peek(std::span<iovec> pieces) override {
    std::size_t count = 0;
    for (std::size_t at = sent_; text_ != nullptr && at < text_->size() && count < pieces.size();
         ++count) {
      const std::size_t bytes = std::min(kPieceBytes, text_->size() - at);
      pieces[count] = {const_cast<char*>(text_->data()) + at, bytes};
      at += bytes;
    }
    return count;
  }
  void consume(std::size_t bytes) override { sent_ += bytes; }
  http::SourceState source_state() override {
    return text_ == nullptr ? http::SourceState::kOpen : http::SourceState::kEnd;
  }
  std::span<const http::Field> trailers() override { return {}; }
  void on_closed(const http::Closed& closed) override {
    if (closed.status != 0) {
      owner_.segment_.count_response(owner_.slot_, closed.status, base::Clock::now() - started_);
    }
    owner_.scrapes_.remove_if([this](const Scrape& each) { return &each == this; });
  }

  State state = State::kWaiting;

 private:
  Metrics& owner_;
  http::Exchange& exchange_;
  http::Compression& compression_;
  const http::Compression::Wanted wanted_;
  const bool head_only_;
  const std::string request_id_;
  const std::string traceparent_;
  const MetricsFormat format_;
  const base::Time started_;
  std::shared_ptr<const std::string> text_;
  std::size_t sent_ = 0;
};

Metrics::Metrics(const config::Settings& settings, shared::Segment& segment, std::size_t slot,
                 net::Loop& loop, net::Offload& offload)
    : settings_(settings),
      segment_(segment),
      slot_(slot),
      loop_(loop),
      offload_(offload),
      self_(std::make_shared<Metrics*>(this)) {}

Metrics::~Metrics() = default;

bool Metrics::scrape(http::Exchange& exchange, http::Compression& compression,
                     std::string_view request_id, std::string_view traceparent) {
  if (scrapes_.size() >= kScrapesMax) {
    return false;
  }
  Scrape& scrape = scrapes_.emplace_back(*this, exchange, compression, request_id, traceparent);
  if (!building_ && !build()) {
    scrapes_.pop_back();
    return false;
  }
  const bool body = exchange.head().body != http::BodyKind::kNone;
  exchange.attach(scrape);
  if (body) {
    exchange.discard_body();
  }
  return true;
}

// For all that wait now. Who comes later must see what has happened until then: it has the next.
bool Metrics::build() {
  std::array<bool, kMetricsFormats> wanted{};
  for (Scrape& scrape : scrapes_) {
    if (scrape.state == Scrape::State::kWaiting) {
      scrape.state = Scrape::State::kBuilding;
      wanted[static_cast<std::size_t>(scrape.format())] = true;
    }
  }
  auto texts = std::make_shared<Texts>();
  building_ = offload_.submit(
      [&settings = settings_, &segment = segment_, wanted, texts, now = loop_.now()] {
        for (std::size_t i = 0; i < kMetricsFormats; ++i) {
          if (wanted[i]) {
            texts->by_format[i] = std::make_shared<const std::string>(
                metrics_text(settings, segment, static_cast<MetricsFormat>(i), now));
          }
        }
      },
      [self = std::weak_ptr(self_), texts] {
        if (const auto metrics = self.lock(); metrics != nullptr) {
          (*metrics)->on_built(*texts);
        }
      });
  return building_;
}

void Metrics::on_built(const Texts& texts) {
  building_ = false;
  const auto next = [this](Scrape::State state) {
    return std::ranges::find(scrapes_, state, &Scrape::state);
  };
  // One by one: sending to one may end its connection, and others with it.
  for (auto found = next(Scrape::State::kBuilding); found != scrapes_.end();
       found = next(Scrape::State::kBuilding)) {
    found->state = Scrape::State::kSending;
    found->send(texts.by_format[static_cast<std::size_t>(found->format())]);
  }
  if (next(Scrape::State::kWaiting) == scrapes_.end() || build()) {
    return;
  }
  for (auto found = next(Scrape::State::kBuilding); found != scrapes_.end();
       found = next(Scrape::State::kBuilding)) {
    found->state = Scrape::State::kSending;
    found->fail();
  }
}

}  // namespace mik::runtime
