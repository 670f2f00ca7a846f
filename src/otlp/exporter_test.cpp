#include "otlp/exporter.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "otlp/test_decoder.hpp"

namespace mik::otlp {
namespace {

using namespace std::chrono_literals;
using Kind = Reply::Kind;

// A collector that answers when the test says.
class FakeSender final : public Sender {
 public:
  void send(std::string_view message, base::Time /*deadline*/, User& user) override {
    EXPECT_EQ(user_, nullptr) << "two at a time";
    messages.emplace_back(message);
    user_ = &user;
  }
  void cancel() override { user_ = nullptr; }
  void answer(Reply reply) {
    ASSERT_NE(user_, nullptr);
    std::exchange(user_, nullptr)->on_reply(std::move(reply));
  }
  bool waits() const { return user_ != nullptr; }
  std::size_t spans(std::size_t message) const {
    return testing::request_of(messages.at(message)).spans.size();
  }

  std::vector<std::string> messages;

 private:
  User* user_ = nullptr;
};

class OtlpExporter : public ::testing::Test, public ExporterObserver {
 protected:
  OtlpExporter() {
    options_.delay = 0ms;
    options_.queue_spans_max = 20;
    options_.batch_spans_max = 8;
    options_.retry_first = 1ms;
    options_.retry_max = 4ms;
    options_.retry_for = std::chrono::hours(1);
  }

  void make() {
    auto sender = std::make_unique<FakeSender>();
    sender_ = sender.get();
    exporter_.emplace(*loop_, std::move(sender), options_, random_, *this);
  }
  void add(int count) {
    for (int i = 0; i < count; ++i) {
      Span span;
      span.trace_low = span.id = static_cast<std::uint64_t>(i) + 1;
      span.name = "n";
      exporter_->add(span);
    }
  }
  // Turns until the sender has been given `count` messages in all.
  bool sent(std::size_t count) {
    for (int turn = 0; turn < 2000 && sender_->messages.size() < count; ++turn) {
      loop_->run_once(5ms);
    }
    return sender_->messages.size() >= count;
  }
  std::uint64_t dropped(Drop why) const { return dropped_[static_cast<std::size_t>(why)]; }

  void on_exported(std::uint64_t spans) override { exported_ += spans; }
  void on_dropped(Drop why, std::uint64_t spans) override {
    dropped_[static_cast<std::size_t>(why)] += spans;
  }
  void on_trouble(std::string_view detail) override { said_ += std::string(detail) + ";"; }
  void on_trouble_over() override { said_ += "over;"; }

  std::unique_ptr<net::Loop> loop_ = std::move(*net::Loop::create());
  telemetry::Random random_{1};
  ExporterOptions options_;
  FakeSender* sender_ = nullptr;
  std::optional<Exporter> exporter_;
  std::uint64_t exported_ = 0;
  std::array<std::uint64_t, kDropReasons> dropped_{};
  std::string said_;
};

TEST_F(OtlpExporter, AFullBatchGoesAtOnceAndASmallOneAfterTheDelay) {
  make();
  add(7);
  EXPECT_TRUE(sender_->messages.empty());
  add(1);
  ASSERT_EQ(sender_->messages.size(), 1u);
  EXPECT_EQ(sender_->spans(0), 8u);
  sender_->answer({.kind = Kind::kTaken});
  EXPECT_EQ(exported_, 8u);
  add(1);
  EXPECT_EQ(sender_->messages.size(), 1u);
  ASSERT_TRUE(sent(2));
  EXPECT_EQ(sender_->spans(1), 1u);
}

TEST_F(OtlpExporter, WhatDoesNotFitIsCountedAndTheQueueStaysBounded) {
  make();
  add(8);  // under way, and not answered
  add(100);
  EXPECT_EQ(exporter_->queued(), 20u);
  EXPECT_EQ(dropped(Drop::kQueueFull), 80u);
  sender_->answer({.kind = Kind::kTaken});
  ASSERT_EQ(sender_->messages.size(), 2u);  // the next full one went in its turn
  EXPECT_EQ(exporter_->queued(), 12u);
}

TEST_F(OtlpExporter, BytesBoundTheQueueToo) {
  options_.queue_bytes_max = 100;
  make();
  add(100);
  EXPECT_LT(exporter_->queued(), 8u);
  EXPECT_EQ(dropped(Drop::kQueueFull) + exporter_->queued(), 100u);
}

TEST_F(OtlpExporter, ACollectorThatIsAwayIsAskedAgainWithTheSameBatch) {
  make();
  add(8);
  for (int i = 1; i <= 4; ++i) {
    ASSERT_TRUE(sent(static_cast<std::size_t>(i)));
    EXPECT_EQ(sender_->messages.front(), sender_->messages.back());
    sender_->answer({.kind = Kind::kRetry, .detail = "away"});
    EXPECT_FALSE(sender_->waits());  // never at once
  }
  ASSERT_TRUE(sent(5));
  sender_->answer({.kind = Kind::kTaken});
  EXPECT_EQ(exported_, 8u);
  EXPECT_EQ(said_, "away;over;");  // once, however often it failed
  EXPECT_EQ(dropped_, (std::array<std::uint64_t, kDropReasons>{}));
}

TEST_F(OtlpExporter, ABatchIsGivenUpInTheEnd) {
  options_.retry_for = 0ms;
  make();
  add(8);
  sender_->answer({.kind = Kind::kRetry, .detail = "away"});
  EXPECT_EQ(dropped(Drop::kUnreachable), 8u);
  add(8);
  ASSERT_TRUE(sent(2));  // the next one, after the wait
  sender_->answer({.kind = Kind::kTaken});
  EXPECT_EQ(exported_, 8u);
}

TEST_F(OtlpExporter, ARequestToComeLaterIsHonoured) {
  make();
  add(8);
  sender_->answer({.kind = Kind::kRetry, .retry_after = std::chrono::hours(2)});
  EXPECT_EQ(dropped(Drop::kUnreachable), 8u);  // later than it is worth
  add(8);
  for (int turn = 0; turn < 20; ++turn) {
    loop_->run_once(1ms);
  }
  EXPECT_EQ(sender_->messages.size(), 1u);
}

TEST_F(OtlpExporter, WhatIsRefusedIsNotSentAgain) {
  make();
  add(8);
  sender_->answer({.kind = Kind::kRefused, .detail = "401"});
  EXPECT_EQ(dropped(Drop::kRejected), 8u);
  add(8);
  ASSERT_EQ(sender_->messages.size(), 2u);
  sender_->answer({.kind = Kind::kTaken, .rejected = 3, .detail = "too old"});
  EXPECT_EQ(exported_, 5u);
  EXPECT_EQ(dropped(Drop::kRejected), 11u);
  add(8);
  sender_->answer({.kind = Kind::kTaken, .rejected = UINT64_MAX});  // more than there were
  EXPECT_EQ(exported_, 5u);
  EXPECT_EQ(dropped(Drop::kRejected), 19u);
}

TEST_F(OtlpExporter, ADrainSendsAllThereIs) {
  options_.delay = std::chrono::hours(1);
  make();
  add(20);
  bool done = false;
  exporter_->drain([&] { done = true; });
  for (std::size_t i = 1; i <= 3; ++i) {
    EXPECT_FALSE(done);
    ASSERT_EQ(sender_->messages.size(), i);
    sender_->answer({.kind = Kind::kTaken});
  }
  EXPECT_TRUE(done);
  EXPECT_EQ(exported_, 20u);
}

TEST_F(OtlpExporter, ADrainWithNothingLeftIsOverAtOnce) {
  make();
  bool done = false;
  exporter_->drain([&] { done = true; });
  EXPECT_TRUE(done);
}

TEST_F(OtlpExporter, ADrainTriesACollectorThatIsAwayOnceMore) {
  options_.retry_first = options_.retry_max = std::chrono::minutes(10);
  make();
  add(20);
  sender_->answer({.kind = Kind::kRetry});
  bool done = false;
  exporter_->drain([&] { done = true; });
  ASSERT_EQ(sender_->messages.size(), 2u);
  sender_->answer({.kind = Kind::kRetry});
  EXPECT_TRUE(done);
  EXPECT_EQ(dropped(Drop::kShutdown), 20u);
}

TEST_F(OtlpExporter, WhatIsLeftAtTheEndIsCounted) {
  make();
  add(8);
  add(3);
  exporter_.reset();
  EXPECT_EQ(dropped(Drop::kShutdown), 11u);
}

}  // namespace
}  // namespace mik::otlp
