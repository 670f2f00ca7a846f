#include "runtime/metrics.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "runtime/metrics_writer.hpp"
#include "runtime/service.hpp"
#include "runtime/test_worker.hpp"

namespace mik::runtime {
namespace {

using namespace std::chrono_literals;

MetricsFormat asked(std::string_view accept) {
  const std::array fields = {http::Field{"Accept", accept}};
  return metrics_format(fields);
}

// Field case 46.
TEST(MetricsFormatTest, OpenMetricsWhereItIsLikedAsMuchAsText) {
  EXPECT_EQ(metrics_format({}), MetricsFormat::kText);
  for (const char* open :
       {"application/openmetrics-text;version=1.0.0;q=0.6, text/plain;version=0.0.4;q=0.5, */*",
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q="
        "0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.2",
        "Application/OpenMetrics-Text ; Version=\"1.0.0\"", "application/openmetrics-text"}) {
    EXPECT_EQ(asked(open), MetricsFormat::kOpenMetrics) << open;
  }
  for (const char* text :
       {"", "*/*", "text/plain", "application/json", "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0.4,text/plain;q=0.5",
        "application/openmetrics-text;version=0.0.1", "application/openmetrics-text;q=2",
        "application/openmetrics-text;q=", "application/openmetrics-textual", ",;,=;"}) {
    EXPECT_EQ(asked(text), MetricsFormat::kText) << text;
  }
}

TEST(MetricsWriterTest, FormatsDifferInNamesBoundsAndEnd) {
  constexpr std::array<std::uint64_t, 2> kBounds = {2'500, 1'000'000};
  const std::array<std::uint64_t, 3> buckets = {1, 0, 2};
  const std::array<std::optional<shared::Exemplar>, 3> exemplars = {
      shared::Exemplar{0xabc, 0x1, 2'400, 1'700'000'000'123}, std::nullopt, std::nullopt};
  const auto write = [&](MetricsFormat format) {
    MetricsWriter out(format);
    out.family("a_total", MetricType::kCounter, "A.");
    out.sample("x=\"1\"", "y=\"2\"", 7);
    out.family("b_seconds", MetricType::kHistogram, "B.");
    out.histogram({}, BucketLabels(kBounds, format), buckets, from_us(2'500'001), exemplars);
    return std::move(out).finish();
  };
  EXPECT_EQ(write(MetricsFormat::kText),
            "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 7\n"
            "# HELP b_seconds B.\n# TYPE b_seconds histogram\n"
            "b_seconds_bucket{le=\"0.0025\"} 1\nb_seconds_bucket{le=\"1\"} 1\n"
            "b_seconds_bucket{le=\"+Inf\"} 3\nb_seconds_sum 2.500001\nb_seconds_count 3\n");
  EXPECT_EQ(write(MetricsFormat::kOpenMetrics),
            "# HELP a A.\n# TYPE a counter\na_total{x=\"1\",y=\"2\"} 7\n"
            "# HELP b_seconds B.\n# TYPE b_seconds histogram\n"
            "b_seconds_bucket{le=\"0.0025\"} 1 # "
            "{trace_id=\"0000000000000abc0000000000000001\"} 0.002400 1700000000.123\n"
            "b_seconds_bucket{le=\"1.0\"} 1\n"
            "b_seconds_bucket{le=\"+Inf\"} 3\nb_seconds_sum 2.500001\nb_seconds_count 3\n# EOF\n");
}

std::string text_of(const shared::Segment& segment) {
  return metrics_text({}, segment, MetricsFormat::kText, base::Clock::now());
}

std::uint64_t value_of(const std::string& text, const std::string& sample) {
  const std::size_t at = text.find("\n" + sample + " ");
  return at == std::string::npos ? 0 : std::stoull(text.substr(at + sample.size() + 2));
}

// As Service does.
void request(shared::Segment& segment, std::uint32_t row, const std::string& label) {
  segment.modules().claim_label(row, label);
  shared::ModuleCells& cells = segment.modules().cells(row, 0);
  shared::count(cells.requests);
  shared::count(cells.hits);
  shared::observe_request(cells, 3ms);
}

TEST(MetricsTextTest, AThousandModulesHaveLabelsAndTheRestIsOther) {
  auto segment = shared::Segment::create(2, 1100, 10).value();
  for (int i = 0; i < 1050; ++i) {
    const std::string name = "m" + std::to_string(i);
    const std::uint32_t row = segment.modules().add("", name).value();
    request(segment, row, name);
    request(segment, row, name);
  }
  const base::Time start = base::Clock::now();
  const std::string text = text_of(segment);
  const auto took = base::Clock::now() - start;
  std::printf("a text of 1000 modules: %zu bytes in %.1f ms\n", text.size(),
              std::chrono::duration<double, std::milli>(took).count());
  EXPECT_EQ(value_of(text, "mik_module_requests_total{module=\"m999\"}"), 2u);
  EXPECT_EQ(text.find("module=\"m1000\""), std::string::npos);
  EXPECT_EQ(value_of(text, "mik_module_requests_total{module=\"other\"}"), 100u);
  EXPECT_EQ(value_of(text, "mik_module_request_duration_seconds_count{module=\"other\"}"), 100u);
  EXPECT_EQ(text.find("mik_circuit_breaker_state{module=\"other\"}"), std::string::npos);
}

// Or it would stand there twice.
TEST(MetricsTextTest, AModuleThatIsCalledOtherIsCountedThere) {
  auto segment = shared::Segment::create(1, 4, 4).value();
  const std::uint32_t row = segment.modules().add("", "other").value();
  const std::uint32_t of_tenant = segment.modules().add("acme", "other").value();
  request(segment, row, "other");
  request(segment, of_tenant, "acme/other");
  const std::string text = text_of(segment);
  EXPECT_EQ(value_of(text, "mik_module_requests_total{module=\"other\"}"), 1u);
  EXPECT_EQ(value_of(text, "mik_module_requests_total{module=\"acme/other\",tenant=\"acme\"}"), 1u);
  EXPECT_NE(text.find("mik_tenant_active_requests{tenant=\"acme\"} 0\n"), std::string::npos);
}

// A full table gives rows to others: what they have counted stays in the sums.
TEST(MetricsTextTest, CountersOfAModuleWhoseRowIsAnothersStay) {
  auto segment = shared::Segment::create(2, 2, 2).value();
  shared::ModuleTable& table = segment.modules();
  std::uint64_t hits = 0;
  for (int round = 0; round < 20; ++round) {
    const std::string name = "m" + std::to_string(round);
    const std::uint32_t row = table.add("", name).value();
    EXPECT_EQ(table.cells(row, 0).requests.load(), 0u);
    request(segment, row, name);
    request(segment, row, name);
    table.set_state(row, shared::RowState::kGone);
    const std::uint64_t now = value_of(text_of(segment), "mik_module_cache_hits_total");
    EXPECT_EQ(now, hits + 2);
    hits = now;
  }
  const std::string text = text_of(segment);
  EXPECT_GE(value_of(text, "mik_module_requests_total{module=\"other\"}"), 36u);
}

// The same with a reader beside the writer.
TEST(MetricsTextTest, NoSumGoesBackWhileRowsChangeHands) {
  auto segment = shared::Segment::create(4, 8, 2).value();
  std::atomic<bool> over = false;
  std::thread writer([&] {
    for (int round = 0; round < 3000; ++round) {
      const std::string name = "m" + std::to_string(round);
      const std::uint32_t row = segment.modules().add("", name).value();
      request(segment, row, name);
      segment.modules().set_state(row, shared::RowState::kGone);
    }
    over = true;
  });
  std::uint64_t hits = 0;
  bool last = false;
  while (!last) {
    last = over;
    const std::uint64_t now = value_of(text_of(segment), "mik_module_cache_hits_total");
    EXPECT_GE(now, hits);
    hits = now;
  }
  writer.join();
  EXPECT_EQ(hits, 3000u);
}

TEST(MetricsTextTest, OutboundIsByPatternAndPatternsAreShared) {
  auto segment = shared::Segment::create(2, 1, 1).value();
  const std::size_t place = segment.outbound_pattern("*.example.com");
  EXPECT_EQ(segment.outbound_pattern("api.test:8080"), place + 1);
  EXPECT_EQ(segment.outbound_pattern("*.example.com"), place);
  shared::bump(segment.row(0).metrics.outbound[place].answered, 2);
  shared::bump(segment.row(1).metrics.outbound[place].answered);
  shared::bump(segment.row(1).metrics.outbound[place].failed);
  std::string text = text_of(segment);
  EXPECT_EQ(
      value_of(text, "mik_outbound_requests_total{pattern=\"*.example.com\",outcome=\"answered\"}"),
      3u);
  EXPECT_EQ(
      value_of(text, "mik_outbound_requests_total{pattern=\"*.example.com\",outcome=\"failed\"}"),
      1u);
  EXPECT_EQ(text.find("pattern=\"other\""), std::string::npos);
  for (int i = 0; i < 100; ++i) {
    segment.outbound_pattern("h" + std::to_string(i));
  }
  EXPECT_EQ(segment.outbound_pattern("one-more"), shared::kOutboundPatterns);
  EXPECT_EQ(segment.outbound_pattern(std::string(300, 'x')), shared::kOutboundPatterns);
  EXPECT_EQ(segment.outbound_pattern("*.example.com"), place);
}

TEST(MetricsTextTest, AnExemplarIsKeptOnceASecondForEachBucket) {
  auto segment = shared::Segment::create(2, 1, 1).value();
  segment.count_response(0, 200, 3ms);
  segment.keep_exemplar(0, 3ms, 1, 2);
  segment.keep_exemplar(0, 4ms, 3, 4);  // the same bucket
  segment.keep_exemplar(1, 30ms, 5, 6);
  EXPECT_EQ(segment.exemplar(0, shared::latency_bucket(4ms))->trace_low, 2u);
  EXPECT_EQ(segment.exemplar(1, shared::latency_bucket(30ms))->trace_high, 5u);
  EXPECT_FALSE(segment.exemplar(1, shared::latency_bucket(3ms)).has_value());
  const std::string text =
      metrics_text({}, segment, MetricsFormat::kOpenMetrics, base::Clock::now());
  EXPECT_NE(text.find(" # {trace_id=\"00000000000000010000000000000002\"} 0.003000 "),
            std::string::npos);
}

class MetricsTest : public TestWorker {
 protected:
  Service service_{context_, pool_};
};

// The loop does nothing but take pieces: it makes no text, and a client that does not read holds
// nobody up.
TEST_F(MetricsTest, TheTextIsMadeOffTheLoopAndGoesOutInPieces) {
  for (int i = 0; i < 60; ++i) {
    const std::string name = "m" + std::to_string(i);
    request(segment_, add_module("", name), name);
  }
  TestExchange slow("/metrics");
  slow.window = 100;
  service_.on_request(slow);
  EXPECT_EQ(slow.status, 0);  // nothing was made inside the call
  TestExchange other("/metrics");
  service_.on_request(other);
  ASSERT_TRUE(turn_until([&] { return slow.status != 0; }));
  EXPECT_TRUE(wait(other));
  EXPECT_FALSE(slow.closed);
  EXPECT_LE(slow.body.size(), 64u * 1024);  // the pieces of one look, of a text that is longer
  EXPECT_EQ(other.fields["Content-Length"], slow.fields["Content-Length"]);
  EXPECT_GT(other.body.size(), 64u * 1024);
  slow.window = SIZE_MAX;
  slow.pump();
  EXPECT_TRUE(slow.complete());
  EXPECT_EQ(other.fields["Vary"], "Accept, Accept-Encoding");
}

TEST_F(MetricsTest, WhoLeavesWhileTheTextIsMadeIsForgotten) {
  TestExchange gone("/metrics");
  service_.on_request(gone);
  gone.close(http::Outcome::kClientGone);
  TestExchange stays("/metrics");
  service_.on_request(stays);
  EXPECT_TRUE(wait(stays));
  EXPECT_EQ(stays.status, 200);
  EXPECT_EQ(gone.status, 0);
}

TEST_F(MetricsTest, TooManyScrapesAre503) {
  std::list<TestExchange> waiting;
  for (std::size_t i = 0; i < Metrics::kScrapesMax; ++i) {
    service_.on_request(waiting.emplace_back("/metrics"));
  }
  TestExchange more("/metrics");
  service_.on_request(more);
  EXPECT_EQ(more.status, 503);
  for (const TestExchange& each : waiting) {
    EXPECT_TRUE(wait(each));
    EXPECT_EQ(each.status, 200);
  }
}

TEST_F(MetricsTest, WhatAGuestTakesIsCounted) {
  TestExchange exchange("/hello");
  ASSERT_TRUE(load(module()));
  service_.on_request(exchange);
  EXPECT_TRUE(wait(exchange));
  TestExchange scrape("/metrics");
  service_.on_request(scrape);
  EXPECT_TRUE(wait(scrape));
  for (const char* name :
       {"mik_queue_duration_seconds_count", "mik_wasm_execution_duration_seconds_count",
        "mik_wasm_instantiation_duration_seconds_count",
        "mik_module_request_duration_seconds_count{module=\"app\"}",
        "mik_module_responses_total{module=\"app\",status=\"2xx\"}"}) {
    EXPECT_EQ(value_of(scrape.body, name), 1u) << name;
  }
}

}  // namespace
}  // namespace mik::runtime
