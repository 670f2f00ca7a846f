// GET /metrics. The text is made on the offload pool, by one job at a time, and sent in pieces as
// the client takes them: a scrape holds the loop for as long as any other response. Confined to the
// loop thread.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <string_view>

#include "config/settings.hpp"
#include "http/compression.hpp"
#include "http/exchange.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"
#include "runtime/metrics_text.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {

class Metrics {
 public:
  // All must outlive it; the pool ends before it does, or nothing is served any more.
  Metrics(const config::Settings& settings, shared::Segment& segment, std::size_t slot,
          net::Loop& loop, net::Offload& offload);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // Scrapes that wait or are being sent, in one worker.
  static constexpr std::size_t kScrapesMax = 64;

  // Takes the exchange over; the answer names `request_id` and `traceparent`. False: there are too
  // many, and nothing was done.
  [[nodiscard]] bool scrape(http::Exchange& exchange, http::Compression& compression,
                            std::string_view request_id, std::string_view traceparent);

 private:
  class Scrape;
  struct Texts;
  bool build();
  void on_built(const Texts& texts);

  const config::Settings& settings_;
  shared::Segment& segment_;
  const std::size_t slot_;
  net::Loop& loop_;
  net::Offload& offload_;
  std::list<Scrape> scrapes_;
  bool building_ = false;
  std::shared_ptr<Metrics*> self_;  // for what comes back from the pool
};

}  // namespace mik::runtime
