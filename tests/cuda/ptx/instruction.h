// One decoded PTX instruction. decode.py reads the enumerators' names and the struct's fields from this file.
#pragma once
#include <cstdint>

namespace tts::ptx {

// clang-format off
enum class Op : uint16_t {
  kAbs, kActivemask, kAdd, kAddc, kAnd, kAtom, kBar, kBarred, kBarwarp, kBfe, kBfi, kBfind, kBra, kBrev, kBrx, kClz,
  kCnot, kCommit, kCopy, kCopysign, kCos, kCvt, kCvta, kDiv, kEx2, kExit, kFence, kFma, kLd, kLdmatrix, kLg2, kLop3,
  kMad, kMadc, kMatch, kMax, kMembar, kMin, kMma, kMov, kMul, kNanosleep, kNeg, kNot, kOr, kPack, kPopc, kPrefetch,
  kPrmt, kRcp, kRed, kRedux, kRem, kRet, kRsqrt, kSad, kSelp, kSetp, kShf, kShfl, kShl, kShr, kSin, kSqrt, kSt,
  kSub, kSubc, kTanh, kTestp, kTrap, kUnpack, kVote, kWait, kXor,
};
enum class Type : uint8_t {
  kNone, kB8, kU8, kS8, kB16, kU16, kS16, kB32, kU32, kS32, kB64, kU64, kS64, kF16, kBf16, kF32, kF64, kF16x2, kBf16x2,
  kPred,
};
// Comparisons, atomic operations, and the kinds of shuffles, votes, funnel shifts, matches and tests.
enum class Variant : uint8_t {
  kNone, kEq, kNe, kLt, kLe, kGt, kGe, kLo, kLs, kHi, kHs, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan, kAdd, kMin,
  kMax, kExch, kCas, kOr, kAnd, kXor, kInc, kDec, kUp, kDown, kBfly, kIdx, kAll, kAny, kUni, kBallot, kPopc, kL, kR,
  kFinite, kInfinite, kNumber, kNotanumber, kNormal, kSubnormal,
};
enum class Combine : uint8_t { kNone, kAnd, kOr, kXor };
enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam, kConst };
// Bits of Instruction::modifiers.
enum Modifier : int32_t {
  kRn, kRz, kRm, kRp, kRni, kRzi, kRmi, kRpi, kSat, kFtz, kApprox, kFull, kLo, kHi, kWide, kCc, kTo, kTrans, kWrap,
  kClamp, kShiftamt, kK8, kAllGroups, kNan,
};
// Cells of 32 bits that start the register file.
enum Special : int32_t {
  kTidX, kTidY, kTidZ, kNtidX, kNtidY, kNtidZ, kCtaidX, kCtaidY, kCtaidZ, kNctaidX, kNctaidY, kNctaidZ, kLaneid,
  kWarpid, kNwarpid, kLanemaskEq, kLanemaskLe, kLanemaskLt, kLanemaskGe, kLanemaskGt, kNumSpecials,
};
// clang-format on

// An operand is the byte offset of 32 lanes' cells in a warp's registers, or the complement of one in the constants.
struct Instruction {
  int64_t offset;       // added to an address
  int32_t to[4];        // destinations
  int32_t from[10];     // sources; an address comes first
  int32_t guard;        // predicate, or kNoOperand
  int32_t member;       // mask of the lanes that a .sync names, or kNoOperand for all that have not left
  int32_t target;       // of a branch: an instruction, or the first entry of a table of them
  int32_t modifiers;    // bits by Modifier
  uint16_t op;          // Op
  uint8_t type;         // Type of the result
  uint8_t source_type;  // Type of what a conversion reads
  uint8_t variant;      // Variant
  uint8_t combine;      // Combine, with the predicate in from[2]
  uint8_t space;        // Space
  uint8_t count;        // elements of a vector, matrices of ldmatrix, bytes of a copy, entries of a branch table
  uint8_t to_bytes, from_bytes, address_bytes;  // widths of the cells, where they may differ from the type's
  uint8_t guard_negated, combine_negated;
  uint8_t unread;  // bits of the elements of a vector that nvcc loads only to make it whole
  uint8_t padding[2];
};

constexpr int32_t kNoOperand = INT32_MAX;

}  // namespace tts::ptx
