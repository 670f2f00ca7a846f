#include "runtime/document_desk.hpp"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>

#include "runtime/answers.hpp"
#include "runtime/test_worker.hpp"

namespace mik::runtime {
namespace {

// The test's hand on it: shared, since the desk owns the documents.
struct Hand {
  std::mutex mutex;
  std::condition_variable changed;
  bool open = true;
  std::vector<std::string> asked;
};

class HeldDocuments final : public Documents {
 public:
  explicit HeldDocuments(Hand& hand) : hand_(hand) {}
  Document find_blocking(std::string_view path) override {
    std::unique_lock lock(hand_.mutex);
    hand_.asked.emplace_back(path);
    hand_.changed.wait(lock, [this] { return hand_.open; });
    Document found;
    if (path != "/_mik/none") {
      found.body = std::make_shared<const std::string>("of " + std::string(path));
    }
    found.schema = path.starts_with("/openapi/");
    return found;
  }

 private:
  Hand& hand_;
};

class DocumentDeskTest : public TestWorker {
 protected:
  void hold() {
    const std::lock_guard lock(hand_.mutex);
    hand_.open = false;
  }
  void release() {
    const std::lock_guard lock(hand_.mutex);
    hand_.open = true;
    hand_.changed.notify_all();
  }
  void TearDown() override { release(); }
  std::unique_ptr<TestExchange> ask(const char* path) {
    auto exchange = std::make_unique<TestExchange>(path);
    EXPECT_TRUE(desk_.ask(*exchange, path, "the-id", "the-parent"));
    return exchange;
  }

  Hand hand_;
  DocumentDesk desk_{context_, offload_, std::make_unique<HeldDocuments>(hand_)};
};

TEST_F(DocumentDeskTest, AnAnswerIsTheDocumentWithItsFields) {
  const auto exchange = ask("/openapi/app");
  ASSERT_TRUE(wait(*exchange));
  EXPECT_EQ(exchange->status, 200);
  EXPECT_EQ(exchange->body, "of /openapi/app");
  EXPECT_EQ(exchange->fields["Content-Type"], "application/json");
  EXPECT_EQ(exchange->fields["X-Schema-Source"], "static");
  EXPECT_EQ(exchange->fields["X-Request-ID"], "the-id");
  EXPECT_EQ(exchange->fields["traceparent"], "the-parent");
}

TEST_F(DocumentDeskTest, OneAnswerServesAllWhoWaitForTheSame) {
  hold();
  const auto first = ask("/_mik/a");
  const auto other = ask("/_mik/b");
  const auto second = ask("/_mik/a");
  release();
  ASSERT_TRUE(wait(*first) && wait(*second) && wait(*other));
  EXPECT_EQ(second->body, "of /_mik/a");
  EXPECT_EQ(other->body, "of /_mik/b");
  EXPECT_EQ(hand_.asked, (std::vector<std::string>{"/_mik/a", "/_mik/b"}));
}

TEST_F(DocumentDeskTest, WhoLeavesIsForgotten) {
  hold();
  const auto gone = ask("/_mik/a");
  const auto waits = ask("/_mik/b");
  const auto gone_too = ask("/_mik/c");
  gone->close(http::Outcome::kClientGone);
  gone_too->close(http::Outcome::kClientGone);
  release();
  ASSERT_TRUE(wait(*waits));
  EXPECT_EQ(gone->status, 0);
  EXPECT_EQ(hand_.asked, (std::vector<std::string>{"/_mik/a", "/_mik/b"}));
}

TEST_F(DocumentDeskTest, TooManyAreRefusedAtOnce) {
  hold();
  std::vector<std::unique_ptr<TestExchange>> waiting;
  while (waiting.size() < DocumentDesk::kWaitingMax) {
    waiting.push_back(ask("/_mik/a"));
  }
  TestExchange refused("/_mik/a");
  EXPECT_FALSE(desk_.ask(refused, "/_mik/a", "", ""));
  waiting.back()->close(http::Outcome::kClientGone);
  waiting.push_back(ask("/_mik/a"));
  release();
  ASSERT_TRUE(wait(*waiting.back()));
}

TEST_F(DocumentDeskTest, WhatCannotBeMadeIsUnavailable) {
  const auto exchange = ask("/_mik/none");
  ASSERT_TRUE(wait(*exchange));
  EXPECT_EQ(exchange->status, 503);
  EXPECT_EQ(exchange->fields["Content-Type"], kProblemType);
  EXPECT_EQ(exchange->fields["Retry-After"], "1");
}

TEST_F(DocumentDeskTest, ASlowClientTakesItsTime) {
  hold();
  const auto exchange = ask("/_mik/a");
  exchange->window = 0;
  release();
  ASSERT_TRUE(turn_until([&] { return exchange->status != 0; }));
  EXPECT_FALSE(exchange->closed);
  exchange->window = SIZE_MAX;
  exchange->pump();
  EXPECT_TRUE(exchange->complete());
  EXPECT_EQ(exchange->body, "of /_mik/a");
}

}  // namespace
}  // namespace mik::runtime
