// For tests of TLS: certificates made on the spot.
#pragma once

#include <memory>
#include <string>
#include <vector>

struct ssl_ctx_st;

namespace mik::http {

// A certificate authority made for the test, and leaves signed by it.
class TestAuthority {
 public:
  TestAuthority();
  ~TestAuthority();
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  // The path of its certificate, PEM.
  const std::string& file() const { return file_; }
  // A server's context with a certificate for `names`: "DNS:localhost,IP:127.0.0.1".
  ssl_ctx_st* server_context(const std::string& names, bool expired = false);

  // The same as PEM files, which go with the authority; the chain has the authority behind it.
  struct Files {
    std::string certificate;
    std::string key;
  };
  Files server_files(const std::string& names);

 private:
  struct Keys;
  std::unique_ptr<Keys> keys_;
  std::string file_;
  std::vector<ssl_ctx_st*> contexts_;
  std::vector<std::string> files_;
};

}  // namespace mik::http
