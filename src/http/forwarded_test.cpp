#include "http/forwarded.hpp"

#include <gtest/gtest.h>

#include <utility>

namespace mik::http {
namespace {

TrustedProxies trusting(std::vector<std::string> entries) {
  base::Result<TrustedProxies> compiled = TrustedProxies::compile(entries);
  EXPECT_TRUE(compiled.has_value()) << compiled.error().to_string();
  return std::move(*compiled);
}

ForwardedView view_of(const std::vector<Field>& fields, const Peer& peer,
                      const TrustedProxies& proxies) {
  RequestHead head;
  head.fields = fields;
  return forwarded(head, peer, proxies);
}

// What a request through 127.0.0.1 says, which is trusted together with 10.0.0.0/8 and fd00::/8.
ForwardedView of(const std::vector<Field>& fields) {
  static const Peer peer{.address = "127.0.0.1", .port = 4711};
  static const TrustedProxies proxies = trusting({"127.0.0.1", "10.0.0.0/8", "fd00::/8"});
  return view_of(fields, peer, proxies);
}

std::string client(const std::vector<Field>& fields) { return std::string(of(fields).client); }

// Field case 18: the leftmost entry is the client's own word.
TEST(Forwarded, TheClientIsFoundFromTheRight) {
  EXPECT_EQ(client({{"X-Forwarded-For", "9.9.9.9, 203.0.113.7"}}), "203.0.113.7");
  EXPECT_EQ(client({{"X-Forwarded-For", "9.9.9.9"}, {"x-forwarded-for", "203.0.113.7"}}),
            "203.0.113.7");
  EXPECT_EQ(client({{"X-Forwarded-For", "203.0.113.7, junk"}}), "127.0.0.1");
  EXPECT_EQ(client({{"X-Forwarded-For", "9.9.9.9, 203.0.113.7, 10.1.2.3"}}), "203.0.113.7");
  EXPECT_EQ(client({{"X-Forwarded-For", "9.9.9.9, 203.0.113.7"},
                    {"Accept", "*/*"},
                    {"X-Forwarded-For", "10.1.2.3 ,\t10.9.9.9"}}),
            "203.0.113.7");
  EXPECT_EQ(client({{"X-Forwarded-For", "203.0.113.7, junk, 10.1.2.3"}}), "10.1.2.3");
  EXPECT_EQ(client({{"X-Forwarded-For", "10.1.1.1, 10.2.2.2"}}), "10.1.1.1");
  EXPECT_EQ(client({{"X-Forwarded-For", ", 203.0.113.7, ,"}}), "203.0.113.7");
  EXPECT_EQ(client({{"X-Forwarded-For", ""}}), "127.0.0.1");
}

TEST(Forwarded, SpellingsOfAHop) {
  const std::vector<std::pair<const char*, const char*>> good = {
      {"203.0.113.7:1234", "203.0.113.7"},   {"2001:db8::1", "2001:db8::1"},
      {"[2001:db8::1]", "2001:db8::1"},      {"[2001:db8::1]:443", "2001:db8::1"},
      {"::ffff:203.0.113.7", "203.0.113.7"}, {"[::ffff:203.0.113.7]:80", "203.0.113.7"},
  };
  for (const auto& [written, address] : good) {
    EXPECT_EQ(client({{"X-Forwarded-For", written}}), address) << written;
  }
  for (const char* bad :
       {"unknown", "_hidden", "203.0.113", "203.0.113.07", "0xCB007107",
        "203.0.113.7:", "203.0.113.7:80:80", "203.0.113.7:http", "203.0.113.7:123456",
        "[203.0.113.7]", "[2001:db8::1", "[2001:db8::1]x", "[2001:db8::1]:", "fe80::1%eth0",
        "\"203.0.113.7\"", "203.0.113.7 203.0.113.8", "a\nb"}) {
    EXPECT_EQ(client({{"X-Forwarded-For", bad}}), "127.0.0.1") << bad;
  }
  // A trusted hop is one in all its spellings.
  EXPECT_EQ(client({{"X-Forwarded-For", "203.0.113.7, ::ffff:10.1.2.3"}}), "203.0.113.7");
  EXPECT_EQ(client({{"X-Forwarded-For", "203.0.113.7, [fd12::1]:80"}}), "203.0.113.7");
}

TEST(Forwarded, OnlyTrustedPeersAreBelieved) {
  const std::vector<Field> fields = {{"X-Forwarded-For", "203.0.113.7"},
                                     {"X-Forwarded-Proto", "https"}};
  const TrustedProxies proxies = trusting({"10.0.0.0/8"});
  const auto seen = [&](const char* address) {
    const Peer peer{.address = address, .port = 1};
    const ForwardedView view = view_of(fields, peer, proxies);
    EXPECT_EQ(view.forwarded, view.client == "203.0.113.7");
    EXPECT_EQ(view.forwarded, view.scheme == ForwardedScheme::kHttps);
    EXPECT_TRUE(view.forwarded || view.client == address);
    return view.forwarded;
  };
  EXPECT_TRUE(seen("10.1.2.3"));
  EXPECT_TRUE(seen("unix:"));
  EXPECT_FALSE(seen("11.1.2.3"));
  EXPECT_FALSE(seen("127.0.0.1"));
  EXPECT_FALSE(seen("::1"));
  // A peer that was gone before it was asked for is nobody.
  EXPECT_FALSE(seen(""));
}

TEST(Forwarded, TheSchemeIsThatOfTheClientsConnection) {
  const auto scheme = [](const std::vector<Field>& fields) { return of(fields).scheme; };
  EXPECT_EQ(scheme({{"X-Forwarded-Proto", "https"}}), ForwardedScheme::kHttps);
  EXPECT_EQ(scheme({{"X-Forwarded-Proto", "HTTPS"}}), ForwardedScheme::kHttps);
  EXPECT_EQ(scheme({{"X-Forwarded-Proto", "wss"}}), ForwardedScheme::kHttps);
  EXPECT_EQ(scheme({{"X-Forwarded-Proto", "http"}}), ForwardedScheme::kHttp);
  EXPECT_EQ(scheme({{"X-Forwarded-For", "203.0.113.7"}}), ForwardedScheme::kNotSaid);
  // The nearest proxy's word, where nobody says how many there were.
  EXPECT_EQ(scheme({{"X-Forwarded-Proto", "https, http"}}), ForwardedScheme::kHttp);
  // As far back as the client.
  EXPECT_EQ(
      scheme({{"X-Forwarded-For", "203.0.113.7, 10.1.2.3"}, {"X-Forwarded-Proto", "https, http"}}),
      ForwardedScheme::kHttps);
  // What the client itself made up is further to the left.
  EXPECT_EQ(
      scheme({{"X-Forwarded-For", "9.9.9.9, 203.0.113.7"}, {"X-Forwarded-Proto", "https, http"}}),
      ForwardedScheme::kHttp);
  EXPECT_EQ(scheme({{"X-Forwarded-For", "203.0.113.7, 10.1.2.3"}, {"X-Forwarded-Proto", "https"}}),
            ForwardedScheme::kHttps);
}

TEST(Forwarded, TheStandardField) {
  EXPECT_EQ(client({{"Forwarded", "for=203.0.113.7"}}), "203.0.113.7");
  EXPECT_EQ(client({{"Forwarded", "For=\"[2001:db8::1]:4711\";by=10.1.1.1;Proto=https"}}),
            "2001:db8::1");
  EXPECT_EQ(of({{"Forwarded", "for=203.0.113.7;proto=https"}}).scheme, ForwardedScheme::kHttps);
  EXPECT_EQ(client({{"Forwarded", "for=9.9.9.9, for=203.0.113.7;proto=http, for=10.1.2.3"}}),
            "203.0.113.7");
  EXPECT_EQ(client({{"Forwarded", "for=203.0.113.7"}, {"Forwarded", "for=10.1.2.3"}}),
            "203.0.113.7");
  EXPECT_EQ(client({{"Forwarded", "for=9.9.9.9, for=unknown"}}), "127.0.0.1");
  EXPECT_EQ(client({{"Forwarded", "for=203.0.113.7, for=10.1.2.3;for=10.1.2.4"}}), "127.0.0.1");
  EXPECT_EQ(client({{"Forwarded", "for=\"a, for=6.6.6.6\", for=203.0.113.7"}}), "203.0.113.7");
  // A quote that the client never closed ends no later than the next comma.
  EXPECT_EQ(client({{"Forwarded", "for=\"a, for=203.0.113.7"}}), "203.0.113.7");
  EXPECT_EQ(client({{"Forwarded", "for=6.6.6.6;x=\", for=\"[2001:db8::1]\""}}), "127.0.0.1");
  // The proxy hides its client but says the scheme.
  const ForwardedView hidden = of({{"Forwarded", "proto=https"}});
  EXPECT_EQ(hidden.client, "127.0.0.1");
  EXPECT_EQ(hidden.scheme, ForwardedScheme::kHttps);
  for (const char* bad : {"", ";", "for", "for=", "=1", "for=203.0.113.7:80", "for=203.0.113.7 x",
                          "for=\"203.0.113.7", "for=\"203.0.113\\.7\""}) {
    EXPECT_EQ(client({{"Forwarded", bad}}), "127.0.0.1") << bad;
  }
  // Longer chains than are looked at end at the last hop that was.
  std::string chain = "for=203.0.113.7";
  for (int i = 0; i < 100; ++i) {
    chain += ",for=10.0.0." + std::to_string(i);
  }
  EXPECT_EQ(client({{"Forwarded", chain}}), "10.0.0.68");
}

TEST(Forwarded, XRealIpCountsWhereNothingElseNamesAClient) {
  const Field real{"X-Real-IP", " 203.0.113.3"};
  EXPECT_EQ(client({real}), "203.0.113.3");
  EXPECT_EQ(client({real, {"X-Forwarded-Proto", "http"}}), "203.0.113.3");
  EXPECT_EQ(client({real, {"X-Forwarded-For", "203.0.113.1"}}), "203.0.113.1");
  EXPECT_EQ(client({real, {"X-Forwarded-For", "junk"}}), "127.0.0.1");
  EXPECT_EQ(client({real, {"Forwarded", "for=203.0.113.2"}}), "203.0.113.2");
  EXPECT_EQ(client({real, {"Forwarded", "proto=https"}}), "127.0.0.1");
  EXPECT_EQ(client({real, {"Forwarded", "proto=https"}, {"X-Forwarded-Proto", "https"}}),
            "127.0.0.1");
}

// A proxy that writes one kind passes on what its client forged of the other.
TEST(Forwarded, OfBothKindsOnlyWhatTheyAgreeOnIsTaken) {
  const Field list{"X-Forwarded-For", "203.0.113.1"};
  const Field proto{"X-Forwarded-Proto", "https"};
  const auto standard = [](const char* value) { return Field{"Forwarded", value}; };
  EXPECT_EQ(client({standard("for=203.0.113.1"), list}), "203.0.113.1");
  EXPECT_EQ(client({standard("for=\"[::ffff:203.0.113.1]:80\""), list}), "203.0.113.1");
  EXPECT_EQ(client({standard("for=203.0.113.2"), list}), "127.0.0.1");
  EXPECT_EQ(client({standard("proto=https"), list}), "127.0.0.1");
  EXPECT_EQ(client({standard("for=203.0.113.1"), proto}), "127.0.0.1");
  const auto scheme = [](const std::vector<Field>& fields) { return of(fields).scheme; };
  EXPECT_EQ(scheme({standard("for=203.0.113.1;proto=https"), list, proto}),
            ForwardedScheme::kHttps);
  EXPECT_EQ(scheme({standard("for=203.0.113.2;proto=https"), list, proto}),
            ForwardedScheme::kHttps);
  EXPECT_EQ(scheme({standard("for=203.0.113.1;proto=http"), list, proto}),
            ForwardedScheme::kNotSaid);
  EXPECT_EQ(scheme({standard("for=203.0.113.1;proto=https"), list}), ForwardedScheme::kNotSaid);
  EXPECT_EQ(scheme({standard("for=203.0.113.1"), list, proto}), ForwardedScheme::kNotSaid);
  EXPECT_TRUE(of({standard("for=203.0.113.2"), list}).forwarded);
}

TEST(Forwarded, AnyOfThemSaysThatSomebodyElseAsks) {
  for (const char* name : {"X-Forwarded-For", "x-forwarded-host", "X-Forwarded-Port", "Forwarded",
                           "X-Real-IP", "X-Forwarded-Proto"}) {
    EXPECT_TRUE(of({{name, "?"}}).forwarded) << name;
  }
  for (const char* name : {"X-Forwarded", "X-Forwarded-", "Forward", "X-Real-IQ", "Host"}) {
    EXPECT_FALSE(of({{name, "?"}}).forwarded) << name;
  }
}

TEST(TrustedProxies, Networks) {
  const auto holds = [](const char* network, const char* address) {
    return trusting({network}).contains(*IpAddress::parse_plain(address));
  };
  EXPECT_TRUE(holds("10.0.0.0/8", "10.255.255.255"));
  EXPECT_FALSE(holds("10.0.0.0/8", "11.0.0.0"));
  EXPECT_TRUE(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
  EXPECT_TRUE(holds("192.0.2.128/25", "192.0.2.129"));
  EXPECT_FALSE(holds("192.0.2.128/25", "192.0.2.127"));
  EXPECT_TRUE(holds("::ffff:10.0.0.0/104", "10.1.2.3"));
  EXPECT_TRUE(holds("2001:db8::/33", "2001:db8:7fff::1"));
  EXPECT_FALSE(holds("2001:db8::/33", "2001:db8:8000::1"));
  EXPECT_TRUE(holds("0.0.0.0/0", "203.0.113.7"));
  EXPECT_FALSE(holds("0.0.0.0/0", "::1"));
  EXPECT_FALSE(holds("::/0", "203.0.113.7"));
  EXPECT_FALSE(TrustedProxies().contains(*IpAddress::parse_plain("127.0.0.1")));
  EXPECT_TRUE(TrustedProxies().contains(Peer{.address = "unix:"}));
}

TEST(TrustedProxies, WhatIsNoneIsSaid) {
  const std::vector<std::pair<const char*, const char*>> bad = {
      {"", "is not an IP address or network"},
      {"localhost", "is not an IP address or network"},
      {"[::1]", "is not an IP address or network"},
      {"10.0.0.0/", "has no prefix length from 0 to 32"},
      {"10.0.0.0/33", "has no prefix length from 0 to 32"},
      {"10.0.0.0/-1", "has no prefix length from 0 to 32"},
      {"::1/129", "has no prefix length from 0 to 128"},
      {"::ffff:0.0.0.0/95", "is IPv4 in part only"},
      {"10.0.0.1/8", "has bits behind its prefix"},
  };
  for (const auto& [entry, why] : bad) {
    const std::vector<std::string> entries = {"127.0.0.1", entry};
    const auto compiled = TrustedProxies::compile(entries);
    ASSERT_FALSE(compiled.has_value()) << entry;
    EXPECT_EQ(compiled.error().message(), "trusted_proxies: \"" + std::string(entry) + "\" " + why);
    EXPECT_FALSE(compiled.error().help().empty());
  }
  EXPECT_EQ(TrustedProxies::compile(std::vector<std::string>{"10.0.0.1/8"}).error().help(),
            "write \"10.0.0.0/8\", or the address alone");
}

}  // namespace
}  // namespace mik::http
