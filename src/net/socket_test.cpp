#include "net/socket.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace mik::net {
namespace {

TEST(SocketAddress, ParsesAndPrints) {
  EXPECT_EQ(parse_socket_address("127.0.0.1:3000").value().to_string(), "127.0.0.1:3000");
  EXPECT_EQ(parse_socket_address("[::1]:80").value().to_string(), "[::1]:80");
  EXPECT_EQ(parse_socket_address("[::1]:80").value().port(), 80);
}

TEST(SocketAddress, RefusesWhatIsNone) {
  for (const char* text : {"", "x", "localhost:3000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000",
                           "127.0.0.1:1x", "::1:80", "[::1]", "[x]:80", "1.2.3:80"}) {
    EXPECT_FALSE(parse_socket_address(text).has_value()) << text;
  }
}

TEST(Listen, SaysWhenThePortIsTaken) {
  const auto any = parse_socket_address("127.0.0.1:0").value();
  const base::Fd first = listen_tcp(any, 16).value();
  const SocketAddress taken = local_address(first.get()).value();
  EXPECT_NE(taken.port(), 0);
  const auto second = listen_tcp(taken, 16);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), base::ErrorCode::kAddressInUse);
}

class ListenUnix : public testing::Test {
 protected:
  ListenUnix() {
    std::string name = testing::TempDir() + "mik-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ + "/http.sock";
  }
  ~ListenUnix() override {
    ::unlink(path_.c_str());
    ::rmdir(folder_.c_str());
  }
  base::Fd connect() const {
    base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un un{};
    un.sun_family = AF_UNIX;
    std::memcpy(un.sun_path, path_.c_str(), path_.size());
    return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&un), sizeof un) == 0
               ? std::move(fd)
               : base::Fd();
  }

  std::string folder_;
  std::string path_;
};

TEST_F(ListenUnix, IsForOwnerAndGroupWhateverTheUmask) {
  for (const mode_t mask : {mode_t{0}, mode_t{0077}}) {
    const mode_t before = ::umask(mask);
    const auto fd = listen_unix(path_, 16);
    EXPECT_EQ(::umask(before), mask) << "the umask has changed";
    ASSERT_TRUE(fd.has_value()) << fd.error().to_string();
    struct stat status{};
    ASSERT_EQ(::lstat(path_.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777u, 0660u);
    EXPECT_EQ(local_address(fd->get()).value().to_string(), "unix:" + path_);
  }
}

TEST_F(ListenUnix, AClientHasNoPath) {
  const base::Fd listener = listen_unix(path_, 16).value();
  const base::Fd client = connect();
  const base::Fd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const SocketAddress peer = peer_address(accepted.get()).value();
  EXPECT_EQ(peer.to_string(), "unix:");
  EXPECT_EQ(peer.host(), "");
  EXPECT_EQ(peer.port(), 0);
}

TEST_F(ListenUnix, ReplacesWhatWasLeftBehindAndNothingElse) {
  {
    const base::Fd left = listen_unix(path_, 16).value();
  }
  EXPECT_FALSE(connect().valid());
  const base::Fd second = listen_unix(path_, 16).value();
  EXPECT_TRUE(connect().valid());
  const auto third = listen_unix(path_, 16);
  ASSERT_FALSE(third.has_value());
  EXPECT_EQ(third.error().code(), base::ErrorCode::kAddressInUse);
  EXPECT_NE(third.error().message().find(path_), std::string::npos);
  EXPECT_TRUE(connect().valid());

  ::unlink(path_.c_str());
  std::ofstream(path_) << "precious";
  const auto file = listen_unix(path_, 16);
  ASSERT_FALSE(file.has_value());
  EXPECT_EQ(file.error().code(), base::ErrorCode::kConfig);
  EXPECT_NE(file.error().message().find("is no socket"), std::string::npos);
}

TEST_F(ListenUnix, RefusesWhatCannotBe) {
  for (const std::string& path :
       {std::string(), std::string("relative.sock"), "/" + std::string(107, 'x')}) {
    const auto refused = listen_unix(path, 16);
    ASSERT_FALSE(refused.has_value()) << path;
    EXPECT_EQ(refused.error().code(), base::ErrorCode::kConfig) << path;
  }
  // As long as one can be.
  const std::string longest = folder_ + "/" + std::string(107 - folder_.size() - 1, 'x');
  EXPECT_TRUE(listen_unix(longest, 16).has_value());
  EXPECT_EQ(::unlink(longest.c_str()), 0);
  const auto nowhere = listen_unix(folder_ + "/none/http.sock", 16);
  ASSERT_FALSE(nowhere.has_value());
  EXPECT_NE(nowhere.error().message().find(folder_ + "/none/http.sock"), std::string::npos);
}

}  // namespace
}  // namespace mik::net
