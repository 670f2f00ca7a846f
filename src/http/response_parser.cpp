#include "http/response_parser.hpp"
