#include "runtime/guest_exchange.hpp"

#include <gtest/gtest.h>

#include "runtime/test_worker.hpp"

namespace mik::runtime {
namespace {

using GuestExchangeTest = TestWorker;
using http::BodyKind;

TEST_F(GuestExchangeTest, AnswersWithTheGuestsResponseAndOurFields) {
  TestExchange exchange("/hello");
  exchange.add_field("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  begin(exchange);
  EXPECT_EQ(active(), 1u);
  turn();
  ASSERT_TRUE(exchange.complete());
  EXPECT_EQ(exchange.status, 200);
  EXPECT_EQ(exchange.body, "Hello, World!");
  EXPECT_EQ(exchange.fields["content-type"], "text/plain");
  EXPECT_EQ(exchange.fields["X-Mik-Handler"], "app");
  EXPECT_EQ(exchange.fields["X-Request-ID"].size(), 36u);
  EXPECT_EQ(exchange.fields["traceparent"].substr(3, 32), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_NE(exchange.fields["traceparent"].substr(36, 16), "00f067aa0ba902b7");
  EXPECT_EQ(active(), 0u);
}

TEST_F(GuestExchangeTest, ATagIsAsTheClientHasIt) {
  for (const char* tag : {"\"x\"", "W/\"x\""}) {
    TestExchange exchange("/not-modified");
    exchange.add_field("accept-encoding", "gzip");
    exchange.add_field("if-none-match", tag);
    begin(exchange);
    turn();
    EXPECT_EQ(exchange.status, 304);
    EXPECT_EQ(exchange.fields["etag"], tag);
    EXPECT_EQ(exchange.fields["Vary"], "Accept-Encoding");
  }
}

TEST_F(GuestExchangeTest, EachFailureHasItsStatus) {
  const std::map<std::string, int> expected = {{"/trap", 502},   {"/none", 502}, {"/error", 502},
                                               {"/memory", 507}, {"/cpu", 504},  {"/busy", 503}};
  for (const auto& [path, status] : expected) {
    TestExchange exchange(path);
    begin(exchange);
    turn();
    EXPECT_TRUE(exchange.complete()) << path;
    EXPECT_EQ(exchange.status, status) << path;
    EXPECT_EQ(exchange.fields["Content-Type"], "application/problem+json");
    EXPECT_NE(exchange.body.find("\"status\":" + std::to_string(status)), std::string::npos);
    EXPECT_NE(exchange.body.find("\"error\":"), std::string::npos);
    EXPECT_EQ(exchange.fields.contains("Retry-After"), status == 503);
  }
  EXPECT_EQ(active(), 0u);
}

TEST_F(GuestExchangeTest, AFailureAfterTheHeadIsNeverACleanEnd) {
  TestExchange exchange("/trap-after-head");
  begin(exchange);
  turn(3);
  EXPECT_EQ(exchange.status, 200);
  EXPECT_EQ(exchange.body, "partial");
  EXPECT_TRUE(exchange.cut());
}

TEST_F(GuestExchangeTest, StreamsBothWays) {
  TestExchange exchange("/echo", BodyKind::kChunked);
  begin(exchange);
  turn();
  EXPECT_EQ(exchange.send_body("one "), http::Flow::kGoOn);
  turn(2);
  EXPECT_EQ(exchange.body, "one ");
  exchange.send_body("two");
  exchange.end_body();
  turn(2);
  EXPECT_TRUE(exchange.complete());
  EXPECT_EQ(exchange.body, "one two");
}

TEST_F(GuestExchangeTest, ASlowReaderStopsTheClientAndALaterReadLetsItGoOn) {
  TestExchange exchange("/echo", BodyKind::kChunked);
  exchange.window = 1;
  begin(exchange);
  const std::string piece(64 * 1024, 'x');
  int pushed = 0;
  while (exchange.send_body(piece) == http::Flow::kGoOn) {
    ++pushed;
    turn();
    ASSERT_LT(pushed, 100);
  }
  EXPECT_EQ(exchange.resumed, 0);
  exchange.window = SIZE_MAX;
  exchange.pump();
  turn(3);
  EXPECT_EQ(exchange.resumed, 1);
  exchange.end_body();
  turn(3);
  EXPECT_TRUE(exchange.complete());
}

TEST_F(GuestExchangeTest, AClientThatLeavesCancelsTheGuest) {
  for (const char* path : {"/sleep?100000", "/spin?0", "/echo", "/big?100000"}) {
    TestExchange exchange(path, BodyKind::kChunked);
    exchange.window = 1;
    begin(exchange);
    turn(2);
    EXPECT_EQ(active(), 1u);
    exchange.close(http::Outcome::kClientGone);
    EXPECT_EQ(active(), 0u) << path;
    turn();
  }
  EXPECT_EQ(scheduler_.computing(), 0u);
  EXPECT_EQ(guests_->next_timer(), base::kNever);
}

TEST_F(GuestExchangeTest, ADeadlineIsA504) {
  settings_.guest.execution_timeout = std::chrono::milliseconds(50);
  TestExchange exchange("/sleep?100000");
  begin(exchange);
  ASSERT_TRUE(wait(exchange));
  EXPECT_EQ(exchange.status, 504);
  EXPECT_EQ(active(), 0u);
}

TEST_F(GuestExchangeTest, AGuestThatComputesForEverMeetsTheDeadlineToo) {
  settings_.guest.execution_timeout = std::chrono::milliseconds(50);
  TestExchange exchange("/spin?0");
  begin(exchange);
  ASSERT_TRUE(wait(exchange));
  EXPECT_EQ(exchange.status, 504);
  EXPECT_EQ(scheduler_.computing(), 0u);
}

TEST_F(GuestExchangeTest, TimeThatTheClientTakesForItsBodyDoesNotCount) {
  settings_.guest.execution_timeout = std::chrono::milliseconds(100);
  TestExchange exchange("/echo", BodyKind::kChunked);
  exchange.window = 0;
  begin(exchange);
  const base::Time until = base::Clock::now() + std::chrono::milliseconds(300);
  while (base::Clock::now() < until) {
    loop_->run_once(std::chrono::milliseconds(10));
  }
  EXPECT_FALSE(exchange.closed);
  exchange.close(http::Outcome::kClientGone);
}

TEST_F(GuestExchangeTest, AStreamThatStallsIsCut) {
  settings_.stream_idle = std::chrono::milliseconds(50);
  TestExchange exchange("/echo", BodyKind::kChunked);
  begin(exchange);
  ASSERT_TRUE(wait(exchange));
  EXPECT_EQ(exchange.status, 200);
  EXPECT_TRUE(exchange.cut());
}

// The guest is through; how long its client takes for the rest is the connection's affair.
TEST_F(GuestExchangeTest, ACompleteResponseIsNotCutBecauseItsClientIsSlow) {
  settings_.stream_idle = std::chrono::milliseconds(50);
  TestExchange exchange("/big?300");
  exchange.window = 200 * 1024;
  begin(exchange);
  turn(5);
  const base::Time until = base::Clock::now() + std::chrono::milliseconds(300);
  while (base::Clock::now() < until) {
    loop_->run_once(std::chrono::milliseconds(10));
  }
  EXPECT_FALSE(exchange.closed);
  exchange.window = SIZE_MAX;
  exchange.pump();
  EXPECT_TRUE(exchange.complete());
  EXPECT_EQ(exchange.body.size(), 300u * 1024);
}

TEST_F(GuestExchangeTest, BodyErrorsBecomeAnswersOfTheirOwn) {
  settings_.max_body_bytes = 10;
  const std::vector<std::pair<http::BodyError, int>> expected = {{http::BodyError::kTooLarge, 413},
                                                                 {http::BodyError::kMalformed, 400},
                                                                 {http::BodyError::kTooSlow, 408}};
  for (const auto& [error, status] : expected) {
    TestExchange exchange("/sleep?100000", BodyKind::kChunked);
    begin(exchange);
    turn();
    exchange.fail_body(error);
    EXPECT_TRUE(exchange.closed);
    EXPECT_EQ(exchange.status, status);
  }
  TestExchange gone("/sleep?100000", BodyKind::kChunked);
  begin(gone);
  turn();
  gone.fail_body(http::BodyError::kGone);
  EXPECT_TRUE(gone.closed);
  EXPECT_EQ(gone.status, 0);
  EXPECT_EQ(active(), 0u);
}

TEST_F(GuestExchangeTest, RequestsWaitForTheirComponentAndHoldNoPermit) {
  hold_module();
  TestExchange exchange("/echo", BodyKind::kChunked);
  begin_cold(exchange);
  EXPECT_EQ(exchange.send_body("early"), http::Flow::kPause);
  turn(2);
  EXPECT_EQ(exchange.status, 0);
  EXPECT_EQ(active(), 0u);
  release_module();
  EXPECT_EQ(active(), 1u);
  EXPECT_EQ(exchange.resumed, 1);
  exchange.end_body();
  turn(3);
  EXPECT_TRUE(exchange.complete());
  EXPECT_EQ(exchange.body, "early");
}

TEST_F(GuestExchangeTest, WaitingForAComponentThatFailsOrIsTooSlowEndsInAnAnswer) {
  settings_.guest.execution_timeout = std::chrono::milliseconds(50);
  hold_module();
  TestExchange late("/hello");
  begin_cold(late);
  ASSERT_TRUE(wait(late));
  EXPECT_EQ(late.status, 504);
  settings_.guest.execution_timeout = std::chrono::seconds(30);
  TestExchange failed("/hello");
  begin_cold(failed);
  break_module();
  EXPECT_EQ(failed.status, 502);
  EXPECT_EQ(modules_.waiting(), 0u);
}

TEST_F(GuestExchangeTest, AClientThatLeavesWhileItWaitsIsForgotten) {
  hold_module();
  TestExchange gone("/hello");
  begin_cold(gone);
  gone.close(http::Outcome::kClientGone);
  EXPECT_EQ(modules_.waiting(), 0u);
  release_module();
  EXPECT_EQ(active(), 0u);
}

TEST_F(GuestExchangeTest, ARequestThatWasAnsweredWhileItWaitedIsNotStarted) {
  hold_module();
  TestExchange exchange("/echo", BodyKind::kChunked);
  exchange.lingers = true;
  begin_cold(exchange);
  exchange.fail_body(http::BodyError::kMalformed);
  EXPECT_EQ(exchange.status, 400);
  release_module();
  turn(3);  // TestExchange minds a second head
  EXPECT_EQ(exchange.status, 400);
  exchange.close(http::Outcome::kComplete);
  EXPECT_EQ(active(), 0u);
}

// One connection carries several requests (HTTP/2), and an answer that cannot be written ends them
// all.
TEST_F(GuestExchangeTest, AnAnswerMayCloseOthersThatWait) {
  hold_module();
  TestExchange first("/hello");
  TestExchange second("/hello");
  TestExchange third("/hello");
  for (TestExchange* each : {&first, &second, &third}) {
    begin_cold(*each);
  }
  first.on_respond = [&] { second.close(http::Outcome::kClientGone); };
  break_module();
  EXPECT_EQ(first.status, 502);
  EXPECT_EQ(second.status, 0);
  EXPECT_EQ(third.status, 502);
  EXPECT_EQ(active(), 0u);
}

TEST_F(GuestExchangeTest, GuestOutputIsLogged) {
  TestExchange exchange("/output");
  begin(exchange);
  turn();
  EXPECT_EQ(output_, "to stdoutto stderr");
  EXPECT_TRUE(exchange.complete());
}

TEST_F(GuestExchangeTest, AWakeFromAnotherThreadGoesOn) {
  TestExchange exchange("/wake");
  begin(exchange);
  ASSERT_TRUE(wait(exchange));
  EXPECT_EQ(exchange.status, 200);
}

TEST_F(GuestExchangeTest, ExchangesAreUsedAgain) {
  TestExchange first("/hello");
  GuestExchange* one = &begin(first);
  turn();
  TestExchange second("/hello");
  EXPECT_EQ(&begin(second), one);
  turn();
  EXPECT_TRUE(second.complete());
}

}  // namespace
}  // namespace mik::runtime
