// Every function of one value by its number, for the `unary` op.
#pragma once

#include "exp_log.h"
#include "gelu.h"
#include "turn.h"

namespace samebits {
namespace SAMEBITS_ISA {

enum Function { kExp = 0, kLog = 1, kSqrt = 2, kGelu = 3, kGeluDerivative = 4, kCosTurn = 5, kSinTurn = 6 };

SAMEBITS_HD float unary_function(int function, float x) {
  float c, s;
  switch (function) {
    case kExp:
      return exp_(x);
    case kLog:
      return log_(x);
    case kSqrt:
      return sqrt_(x);
    case kGelu:
      return gelu(x);
    case kGeluDerivative:
      return gelu_derivative(x);
    case kCosTurn:
      cos_sin_turn(x, &c, &s);
      return c;
    default:
      cos_sin_turn(x, &c, &s);
      return s;
  }
}

}  // namespace SAMEBITS_ISA
}  // namespace samebits
