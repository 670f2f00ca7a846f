#include "shared/control.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>
#include <vector>

namespace mik::shared {
namespace {

std::vector<Message> one_of_each() {
  Digest digest{};
  digest[0] = 0xfe;
  digest[31] = 1;
  return {Ready{},
          NeedArtefact{7, 1ull << 40},
          Fatal{base::ErrorCode::kImport, "it imports the moon", "grant the moon"},
          ArtefactReady{7, 2, digest, 1ull << 33},
          ArtefactFailed{7, 3, base::ErrorCode::kCompile, "too large", ""},
          Drain{0x0102'0304'0506'0708, true},
          Resolved{8, 4, digest, 99},
          Prepared{9, 5, true, ""},
          Prepared{9, 6, false, "no memory"},
          Prepare{9, 1, 6, digest},
          Compiled{digest, 1234},
          ReopenLogs{},
          CompileFailed{base::ErrorCode::kNotComponent, "it is a picture", "compile it"}};
}

TEST(Control, EveryMessageSurvivesTheWay) {
  for (const Message& message : one_of_each()) {
    const std::string bytes = encode(message);
    const auto back = decode(bytes);
    ASSERT_TRUE(back.has_value()) << message.index();
    EXPECT_EQ(*back, message);
  }
}

TEST(Control, NoPrefixAndNoExtensionOfAMessageIsOne) {
  for (const Message& message : one_of_each()) {
    const std::string bytes = encode(message);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_EQ(decode(std::string_view(bytes).substr(0, size)).error().code(),
                base::ErrorCode::kBadMessage);
    }
    EXPECT_FALSE(decode(bytes + "x").has_value());
  }
}

TEST(Control, RefusesUnknownKindsCodesAndLengths) {
  std::string kind = encode(Ready{});
  kind[4] = 77;
  EXPECT_FALSE(decode(kind).has_value());
  std::string code = encode(Fatal{base::ErrorCode::kInternal, "", ""});
  code[6] = static_cast<char>(0xff);
  EXPECT_FALSE(decode(code).has_value());
  std::string length = encode(Fatal{base::ErrorCode::kInternal, "abc", ""});
  length[10] = 1;  // 65539 bytes
  EXPECT_FALSE(decode(length).has_value());
  std::string boolean = encode(Drain{1, true});
  boolean.back() = 2;
  EXPECT_FALSE(decode(boolean).has_value());
}

TEST(Control, LongTextsAreCutToFitAPacket) {
  const std::string text(100'000, 'x');
  for (const Message& message : std::vector<Message>{
           Fatal{base::ErrorCode::kImport, text, text}, Prepared{1, 1, false, text},
           ArtefactFailed{1, 1, base::ErrorCode::kCompile, text, text},
           CompileFailed{base::ErrorCode::kCompile, text, text}}) {
    const std::string bytes = encode(message);
    EXPECT_LE(bytes.size(), kMessageMax);
    EXPECT_TRUE(decode(bytes).has_value());
  }
}

TEST(Control, AnErrorKeepsItsCodeItsCausesAndItsHelp) {
  const base::Error error =
      base::Error(base::ErrorCode::kImport, "inner").because("outer").with_help("do this");
  const base::Error back = to_error(to_fatal(error));
  EXPECT_EQ(back.code(), base::ErrorCode::kImport);
  EXPECT_EQ(back.message(), "outer: inner");
  EXPECT_EQ(back.help(), "do this");
  EXPECT_EQ(to_error(to_compile_failed(error)).message(), "outer: inner");
}

TEST(Channel, KeepsMessagesApartAndTellsTheEnd) {
  auto [ours, theirs] = Channel::pair().value();
  EXPECT_TRUE(std::holds_alternative<NothingYet>(*theirs.receive()));
  for (const Message& message : one_of_each()) {
    ASSERT_TRUE(ours.send(message).has_value());
  }
  for (const Message& message : one_of_each()) {
    EXPECT_EQ(std::get<Message>(*theirs.receive()), message);
  }
  EXPECT_TRUE(std::holds_alternative<NothingYet>(*theirs.receive()));
  ASSERT_TRUE(ours.send(Ready{}).has_value());
  ours.close();
  EXPECT_TRUE(std::holds_alternative<Message>(*theirs.receive()))
      << "what was sent before the end is heard";
  EXPECT_TRUE(std::holds_alternative<EndOfFile>(*theirs.receive()));
  EXPECT_FALSE(theirs.send(Ready{}).has_value());
}

TEST(Channel, APeerThatDiedWithMessagesUnreadIsTheEnd) {
  auto [ours, theirs] = Channel::pair().value();
  ASSERT_TRUE(ours.send(Ready{}).has_value());
  theirs.close();
  EXPECT_TRUE(std::holds_alternative<EndOfFile>(*ours.receive()));
}

TEST(Channel, NonsenseIsSkipped) {
  auto [ours, theirs] = Channel::pair().value();
  ASSERT_EQ(::send(ours.fd(), "nonsense", 8, 0), 8);
  const std::string huge(kMessageMax + 1, 'x');
  ASSERT_GT(::send(ours.fd(), huge.data(), huge.size(), 0), 0);
  ASSERT_TRUE(ours.send(Ready{}).has_value());
  EXPECT_FALSE(theirs.receive().has_value());
  EXPECT_FALSE(theirs.receive().has_value());
  EXPECT_TRUE(std::holds_alternative<Message>(*theirs.receive()));
}

TEST(Channel, AReaderThatNeverReadsDoesNotBlockTheWriter) {
  auto [ours, theirs] = Channel::pair().value();
  bool refused = false;
  for (int i = 0; i < 100'000 && !refused; ++i) {
    refused = !ours.send(Prepared{0, 0, false, std::string(1000, 'x')}).has_value();
  }
  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace mik::shared
