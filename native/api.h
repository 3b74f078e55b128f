// The part of ONNX Runtime's C API that the addon uses, declared here so that no header has to be downloaded.
//
// OrtApi is a struct of function pointers to which versions only append. The numbers are offsets in that struct,
// in pointers, and were checked against the published header of API version 21.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtMemoryInfo;
struct OrtArenaCfg;
struct OrtValue;
struct OrtAllocator;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;

constexpr uint32_t kApiVersion = 21;

struct OrtApiBase {
  const void *const *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)();
};

enum : int { kErrorInvalidArgument = 2 };
enum : int { kLogError = 3 };
enum : int { kOptimizeAll = 99 };
enum : int { kDeviceAllocator = 0, kArenaAllocator = 1 };
enum : int { kMemoryDefault = 0 };
enum ElementType : int { kFloat = 1, kInt32 = 6, kInt64 = 7, kBool = 9 };

// clang-format off
#define ORT_SLOTS(SLOT) \
  SLOT(0, OrtStatus *, CreateStatus, (int code, const char *message)) \
  SLOT(1, int, GetErrorCode, (const OrtStatus *)) \
  SLOT(2, const char *, GetErrorMessage, (const OrtStatus *)) \
  SLOT(3, OrtStatus *, CreateEnv, (int log_level, const char *log_id, OrtEnv **)) \
  SLOT(8, OrtStatus *, CreateSessionFromArray, (const OrtEnv *, const void *model, size_t bytes, const OrtSessionOptions *, OrtSession **)) \
  SLOT(9, OrtStatus *, Run, (OrtSession *, const OrtRunOptions *, const char *const *input_names, const OrtValue *const *inputs, size_t input_count, const char *const *output_names, size_t output_count, OrtValue **outputs)) \
  SLOT(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **)) \
  SLOT(17, OrtStatus *, DisableMemPattern, (OrtSessionOptions *)) \
  SLOT(19, OrtStatus *, DisableCpuMemArena, (OrtSessionOptions *)) \
  SLOT(22, OrtStatus *, SetSessionLogSeverityLevel, (OrtSessionOptions *, int)) \
  SLOT(23, OrtStatus *, SetSessionGraphOptimizationLevel, (OrtSessionOptions *, int)) \
  SLOT(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int)) \
  SLOT(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int)) \
  SLOT(30, OrtStatus *, SessionGetInputCount, (const OrtSession *, size_t *)) \
  SLOT(31, OrtStatus *, SessionGetOutputCount, (const OrtSession *, size_t *)) \
  SLOT(33, OrtStatus *, SessionGetInputTypeInfo, (const OrtSession *, size_t index, OrtTypeInfo **)) \
  SLOT(34, OrtStatus *, SessionGetOutputTypeInfo, (const OrtSession *, size_t index, OrtTypeInfo **)) \
  SLOT(36, OrtStatus *, SessionGetInputName, (const OrtSession *, size_t index, OrtAllocator *, char **)) \
  SLOT(37, OrtStatus *, SessionGetOutputName, (const OrtSession *, size_t index, OrtAllocator *, char **)) \
  SLOT(49, OrtStatus *, CreateTensorWithDataAsOrtValue, (const OrtMemoryInfo *, void *data, size_t bytes, const int64_t *dims, size_t rank, ElementType, OrtValue **)) \
  SLOT(55, OrtStatus *, CastTypeInfoToTensorInfo, (const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **)) \
  SLOT(60, OrtStatus *, GetTensorElementType, (const OrtTensorTypeAndShapeInfo *, ElementType *)) \
  SLOT(69, OrtStatus *, CreateCpuMemoryInfo, (int allocator_type, int memory_type, OrtMemoryInfo **)) \
  SLOT(76, OrtStatus *, AllocatorFree, (OrtAllocator *, void *)) \
  SLOT(78, OrtStatus *, GetAllocatorWithDefaultOptions, (OrtAllocator **)) \
  SLOT(93, void, ReleaseStatus, (OrtStatus *)) \
  SLOT(94, void, ReleaseMemoryInfo, (OrtMemoryInfo *)) \
  SLOT(95, void, ReleaseSession, (OrtSession *)) \
  SLOT(96, void, ReleaseValue, (OrtValue *)) \
  SLOT(98, void, ReleaseTypeInfo, (OrtTypeInfo *)) \
  SLOT(100, void, ReleaseSessionOptions, (OrtSessionOptions *)) \
  SLOT(130, OrtStatus *, AddSessionConfigEntry, (OrtSessionOptions *, const char *key, const char *value)) \
  SLOT(144, OrtStatus *, CreateAndRegisterAllocator, (OrtEnv *, const OrtMemoryInfo *, const OrtArenaCfg *))
// clang-format on

struct OrtApi {
#define SLOT(index, result, name, parameters) result(*name) parameters;
  ORT_SLOTS(SLOT)
#undef SLOT

  explicit OrtApi(const void *const *table) {
#define SLOT(index, result, name, parameters) \
  name = reinterpret_cast<result(*) parameters>(const_cast<void *>(table[index]));
    ORT_SLOTS(SLOT)
#undef SLOT
  }
};
