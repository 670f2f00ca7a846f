#include "shared/handover.hpp"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace mik::shared {

namespace {

constexpr char kByte = 's';  // a packet must not be empty: an empty one looks like the end of file

// Kernel memory of what was sent and not yet received.
std::uint64_t unread_bytes(int sending) noexcept {
  int bytes = 0;
  return ::ioctl(sending, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? static_cast<std::uint64_t>(bytes)
                                                              : 0;
}

}  // namespace

base::Result<InboxPair> make_inbox() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()) != 0) {
    return base::Error::from_errno("socketpair", errno);
  }
  return InboxPair{base::Fd(fds[0]), base::Fd(fds[1])};
}

bool pass_socket(int sending, int socket) noexcept {
  char byte = kByte;
  iovec data{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> ancillary{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = ancillary.data();
  message.msg_controllen = ancillary.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &socket, sizeof socket);
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(sending, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == 1;
}

base::Fd take_socket(int receiving) noexcept {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> ancillary{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = ancillary.data();
  message.msg_controllen = ancillary.size();
  ssize_t got = 0;
  do {
    got = ::recvmsg(receiving, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  const cmsghdr* header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof(int))) {
    return {};
  }
  int socket = -1;
  std::memcpy(&socket, CMSG_DATA(header), sizeof socket);
  return base::Fd(socket);
}

Outbox::Outbox(std::vector<base::Fd> peers) : peers_(std::move(peers)) {
  // What one message costs depends on the kernel: measured once.
  auto probe = make_inbox();
  if (probe && pass_socket(probe->sending.get(), probe->sending.get())) {
    bytes_per_message_ = unread_bytes(probe->sending.get());
    static_cast<void>(take_socket(probe->receiving.get()));
  }
}

bool Outbox::pass(std::size_t slot, int socket) noexcept {
  return slot < peers_.size() && pass_socket(peers_[slot].get(), socket);
}

std::uint64_t Outbox::queued(std::size_t slot) const noexcept {
  if (slot >= peers_.size() || bytes_per_message_ == 0) {
    return 0;
  }
  const std::uint64_t unread = unread_bytes(peers_[slot].get());
  return (unread + bytes_per_message_ / 2) / bytes_per_message_;
}

}  // namespace mik::shared
