#include "http/test_authority.hpp"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>

namespace mik::http {

struct TestAuthority::Keys {
  EVP_PKEY* key = nullptr;
  X509* certificate = nullptr;
  ~Keys() {
    EVP_PKEY_free(key);
    X509_free(certificate);
  }
};

namespace {

X509* make_certificate(EVP_PKEY* key, const char* name, X509* issuer, EVP_PKEY* issuer_key,
                       int extension, const std::string& value, bool expired) {
  static long serial = 1;
  X509* certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -7200);
  X509_gmtime_adj(X509_getm_notAfter(certificate), expired ? -3600 : 86400);
  X509_set_pubkey(certificate, key);
  X509_NAME* subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
  X509_set_issuer_name(certificate, issuer == nullptr ? subject : X509_get_subject_name(issuer));
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer == nullptr ? certificate : issuer, certificate, nullptr, nullptr,
                 0);
  X509_EXTENSION* added = X509V3_EXT_conf_nid(nullptr, &context, extension, value.c_str());
  X509_add_ext(certificate, added, -1);
  X509_EXTENSION_free(added);
  X509_sign(certificate, issuer_key, EVP_sha256());
  return certificate;
}

std::FILE* new_file(std::string& path) {
  path = ::testing::TempDir() + "mik_pem_XXXXXX";
  const int fd = ::mkstemp(path.data());
  std::FILE* const file = fd < 0 ? nullptr : ::fdopen(fd, "w");
  if (file == nullptr) {
    std::perror(path.c_str());
    std::abort();
  }
  return file;
}

}  // namespace

TestAuthority::TestAuthority() : keys_(std::make_unique<Keys>()) {
  keys_->key = EVP_EC_gen("P-256");
  keys_->certificate = make_certificate(keys_->key, "mik test authority", nullptr, keys_->key,
                                        NID_basic_constraints, "critical,CA:TRUE", false);
  std::FILE* const file = new_file(file_);
  PEM_write_X509(file, keys_->certificate);
  std::fclose(file);
}

TestAuthority::~TestAuthority() {
  for (SSL_CTX* context : contexts_) {
    SSL_CTX_free(context);
  }
  for (const std::string& file : files_) {
    ::unlink(file.c_str());
  }
  ::unlink(file_.c_str());
}

SSL_CTX* TestAuthority::server_context(const std::string& names, bool expired) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = make_certificate(key, "leaf", keys_->certificate, keys_->key,
                                       NID_subject_alt_name, names, expired);
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_use_certificate(context, certificate);
  SSL_CTX_use_PrivateKey(context, key);
  const unsigned char id[] = "mik";
  SSL_CTX_set_session_id_context(context, id, 3);
  X509_free(certificate);
  EVP_PKEY_free(key);
  contexts_.push_back(context);
  return context;
}

TestAuthority::Files TestAuthority::server_files(const std::string& names) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = make_certificate(key, "leaf", keys_->certificate, keys_->key,
                                       NID_subject_alt_name, names, false);
  Files files;
  std::FILE* file = new_file(files.certificate);
  PEM_write_X509(file, certificate);
  PEM_write_X509(file, keys_->certificate);
  std::fclose(file);
  file = new_file(files.key);
  PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  X509_free(certificate);
  EVP_PKEY_free(key);
  files_.push_back(files.certificate);
  files_.push_back(files.key);
  return files;
}

}  // namespace mik::http
