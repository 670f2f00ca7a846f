// Spellings of addresses and their classes. Field case 25.
#include "http/address.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <string>
#include <vector>

namespace mik::http {
namespace {

std::string text_of(std::string_view host) {
  const std::optional<IpAddress> address = IpAddress::parse(host);
  return address.has_value() ? address->to_string() : "name";
}

AddressClass class_of(std::string_view host) {
  const std::optional<IpAddress> address = IpAddress::parse(host);
  EXPECT_TRUE(address.has_value()) << host;
  return address.has_value() ? address->address_class() : AddressClass::kPublic;
}

TEST(Address, ReadsEverySpellingOfTheMetadataAddress) {
  for (const std::string_view spelling :
       {"169.254.169.254", "169.254.169.254.", "2852039166", "0xA9FEA9FE", "0xa9fea9fe.",
        "0251.0376.0251.0376", "0251.254.0xa9.254", "169.254.43518", "169.16689662",
        "0000251.0000376.0251.0376", "::ffff:a9fe:a9fe", "::ffff:169.254.169.254",
        "0:0:0:0:0:ffff:a9fe:a9fe"}) {
    EXPECT_EQ(text_of(spelling), "169.254.169.254") << spelling;
  }
  for (const std::string_view carried :
       {"::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:0:169.254.169.254",
        "64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::", "2001:0:1:2:3:4:5601:5601",
        "2001:db8::5efe:169.254.169.254", "fd00:ec2::254", "fd20:ce::254"}) {
    EXPECT_EQ(class_of(carried), AddressClass::kMetadata) << carried;
  }
}

TEST(Address, KnowsNamesFromAddresses) {
  for (const std::string_view name : {"",           ".",
                                      "localhost",  "1.2.3.4.5",
                                      "256.1.1.1",  "1.2.3.256",
                                      "4294967296", "1.16777216",
                                      "0x",         "0x1g",
                                      "08.0.0.1",   "1..2",
                                      "1.2.3.",     ".1",
                                      "1.2.3.4..",  "1.2.3.4a",
                                      "a.1",        "-1",
                                      "+1",         "1 ",
                                      " 1",         "::g",
                                      "1::2::3",    "fe80::1%lo",
                                      "[::1]",      "99999999999999999999"}) {
    if (name == "1.2.3.") {
      EXPECT_EQ(text_of(name), "1.2.0.3");  // a dot at the end does not change a host
      continue;
    }
    EXPECT_EQ(text_of(name), "name") << name;
  }
  EXPECT_EQ(text_of("0"), "0.0.0.0");
  EXPECT_EQ(text_of("127.1"), "127.0.0.1");
  EXPECT_EQ(text_of("010.0.0.1"), "8.0.0.1");
  EXPECT_EQ(text_of("0X7f.0x1"), "127.0.0.1");
  EXPECT_EQ(text_of("0:0:0:0:0:0:0:1"), "::1");
}

TEST(Address, ClassifiesAtTheBorders) {
  struct Case {
    std::string_view address;
    AddressClass what;
  };
  const std::vector<Case> cases = {
      {"0.0.0.0", AddressClass::kUnspecified},
      {"0.255.255.255", AddressClass::kUnspecified},
      {"1.0.0.0", AddressClass::kPublic},
      {"9.255.255.255", AddressClass::kPublic},
      {"10.0.0.0", AddressClass::kPrivate},
      {"10.255.255.255", AddressClass::kPrivate},
      {"11.0.0.0", AddressClass::kPublic},
      {"100.63.255.255", AddressClass::kPublic},
      {"100.64.0.0", AddressClass::kPrivate},
      {"100.127.255.255", AddressClass::kPrivate},
      {"100.128.0.0", AddressClass::kPublic},
      {"100.100.100.200", AddressClass::kMetadata},
      {"126.255.255.255", AddressClass::kPublic},
      {"127.0.0.0", AddressClass::kLoopback},
      {"127.255.255.255", AddressClass::kLoopback},
      {"128.0.0.0", AddressClass::kPublic},
      {"168.63.129.16", AddressClass::kMetadata},
      {"169.253.255.255", AddressClass::kPublic},
      {"169.254.0.0", AddressClass::kLinkLocal},
      {"169.254.169.254", AddressClass::kMetadata},
      {"169.254.170.2", AddressClass::kMetadata},
      {"169.254.255.255", AddressClass::kLinkLocal},
      {"169.255.0.0", AddressClass::kPublic},
      {"172.15.255.255", AddressClass::kPublic},
      {"172.16.0.0", AddressClass::kPrivate},
      {"172.31.255.255", AddressClass::kPrivate},
      {"172.32.0.0", AddressClass::kPublic},
      {"192.0.0.192", AddressClass::kMetadata},
      {"192.167.255.255", AddressClass::kPublic},
      {"192.168.0.0", AddressClass::kPrivate},
      {"192.169.0.0", AddressClass::kPublic},
      {"198.18.0.0", AddressClass::kPrivate},
      {"198.20.0.0", AddressClass::kPublic},
      {"223.255.255.255", AddressClass::kPublic},
      {"224.0.0.0", AddressClass::kMulticast},
      {"240.0.0.0", AddressClass::kReserved},
      {"255.255.255.255", AddressClass::kReserved},
      {"::", AddressClass::kUnspecified},
      {"::1", AddressClass::kLoopback},
      {"::7f00:1", AddressClass::kLoopback},
      {"::ffff:10.0.0.1", AddressClass::kPrivate},
      {"64:ff9b::7f00:1", AddressClass::kLoopback},
      {"64:ff9b::808:808", AddressClass::kPublic},
      {"64:ff9b:1:7f00:0:100::", AddressClass::kLoopback},
      {"64:ff9b:1:808:8:800::", AddressClass::kPublic},
      {"2001:db8::1", AddressClass::kPublic},
      {"2001:4860:4860::8888", AddressClass::kPublic},
      {"2002:7f00:1::", AddressClass::kLoopback},
      {"2002:a00:1::", AddressClass::kPrivate},
      {"2002:808:808::", AddressClass::kPublic},
      {"fbff::", AddressClass::kPublic},
      {"fc00::", AddressClass::kPrivate},
      {"fdff::", AddressClass::kPrivate},
      {"fe00::", AddressClass::kPublic},
      {"fe80::", AddressClass::kLinkLocal},
      {"febf::", AddressClass::kLinkLocal},
      {"fec0::", AddressClass::kPrivate},
      {"ff02::1", AddressClass::kMulticast},
      {"fd00:ec2::23", AddressClass::kMetadata},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(class_of(c.address), c.what) << c.address;
  }
}

TEST(Address, ReadsSocketAddresses) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(0x7f000001);
  EXPECT_EQ(IpAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(in)),
            IpAddress::parse("127.0.0.1"));
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  ASSERT_EQ(inet_pton(AF_INET6, "::ffff:127.0.0.1", &in6.sin6_addr), 1);
  EXPECT_EQ(IpAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(in6)),
            IpAddress::parse("127.0.0.1"));
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  EXPECT_FALSE(IpAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(un)).has_value());
}

}  // namespace
}  // namespace mik::http
