// The listening sockets of a family, and who sits on a port that is taken. Confined to the
// supervisor's thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace mik::supervisor {

// An open listening socket, and for a unix socket its file, which goes with it.
class Listener {
 public:
  // What is set here is inherited by accepted sockets: TCP_NODELAY. Errors: kConfig; kAddressInUse,
  // which names the process that has the port where /proc tells; kSystem. `ours`: those that are
  // open already, and may have the same port for an address that overlaps.
  static base::Result<std::unique_ptr<Listener>> open(
      std::string bind, const std::vector<std::unique_ptr<Listener>>& ours);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int fd() const noexcept { return fd_.get(); }
  // As it was asked for: "127.0.0.1:0", "unix:/run/mik/http.sock".
  const std::string& bind() const noexcept { return bind_; }
  // "127.0.0.1:3000", with the port that the kernel chose where 0 was asked for.
  const std::string& address() const noexcept { return address_; }

  // No new connection reaches it from here on, in whichever process it is open; those that are
  // queued can still be accepted.
  void refuse_new() noexcept;

 private:
  Listener(base::Fd fd, std::string bind, std::string address);
  void remove_file() noexcept;

  base::Fd fd_;
  std::string bind_;
  std::string address_;
  std::string path_;  // of a unix socket whose file is still ours
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// All that are open, whichever generation of workers they are for.
class Listeners {
 public:
  // One for each bind, in their order: those that are open already are the same, the others are
  // opened; all or none.
  base::Result<std::vector<Listener*>> open(const std::vector<std::string>& binds);
  // Closes all others; workers that have them still accept what is queued there.
  void keep_only(const std::vector<Listener*>& used);

 private:
  std::vector<std::unique_ptr<Listener>> listeners_;
};

struct PortOwner {
  pid_t pid = 0;
  std::string name;  // its comm
};
// Nothing when nobody listens there, or it belongs to a user whose processes we may not look into.
// Reads all of /proc.
std::optional<PortOwner> port_owner(std::uint16_t port);

}  // namespace mik::supervisor
