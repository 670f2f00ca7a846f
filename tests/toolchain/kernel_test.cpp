// What mik asks of the kernel, each alone: where one fails on a machine, that is why mik does not
// start there. PAGEMAP_SCAN is a gain and no need: its absence is reported.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iostream>

#include "base/fd.hpp"

namespace {

using mik::base::Fd;

TEST(Kernel, SealsTheSizeOfSharedMemory) {
  const Fd memory(memfd_create("probe", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_GE(memory.get(), 0);
  ASSERT_EQ(ftruncate(memory.get(), 4096), 0);
  ASSERT_EQ(fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
  EXPECT_EQ(ftruncate(memory.get(), 0), -1)
      << "a worker could cut the segment under the others: SIGBUS";
  EXPECT_EQ(errno, EPERM);
  void* mapped = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED) << "the seals must not forbid writing";
  munmap(mapped, 4096);
}

TEST(Kernel, TakesEpollExclusiveOnListeners) {
  const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const Fd poll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN | EPOLLEXCLUSIVE;
  EXPECT_EQ(epoll_ctl(poll.get(), EPOLL_CTL_ADD, listener.get(), &event), 0)
      << std::strerror(errno);
}

TEST(Kernel, OpensProcessesAsDescriptors) {
  const Fd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  EXPECT_GE(self.get(), 0) << std::strerror(errno);
}

TEST(Kernel, PassesDescriptorsBetweenProcesses) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  const Fd left(pair[0]);
  const Fd right(pair[1]);
  char byte = 'x';
  iovec data{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int passed = right.get();
  std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
  ASSERT_EQ(sendmsg(left.get(), &message, 0), 1);
  ASSERT_EQ(recvmsg(right.get(), &message, MSG_CMSG_CLOEXEC), 1);
  int received = -1;
  std::memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
  const Fd owned(received);
  EXPECT_EQ(fcntl(received, F_GETFD), FD_CLOEXEC);
}

// linux/fs.h of Debian 12 is older than the call (Linux 6.7).
struct ScanArgument {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

TEST(Kernel, SaysWhetherItHasPagemapScan) {
  const Fd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  ScanArgument argument{};
  argument.size = sizeof argument;
  const int result = ioctl(pagemap.get(), _IOWR('f', 16, ScanArgument), &argument);
  const bool present = result >= 0;
  RecordProperty("pagemap_scan", present ? 1 : 0);
  std::cout << "PAGEMAP_SCAN: "
            << (present ? "there" : "not there: guests are reset by madvise, see docs/adr/0006")
            << '\n';
  EXPECT_TRUE(present || errno == ENOTTY || errno == EINVAL || errno == EBADF)
      << std::strerror(errno);
}

}  // namespace
