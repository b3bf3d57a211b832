/* bpftime/eim.h: what an application offers to extensions, declared beside its code.
 *
 *   EIM_STATE_DEFINE(readPid, read, ngx_pid);
 *   EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(nginxTime, HF_RET_POSITIVE);
 *   EIM_EXTENSION_ENTRY_DEFINE(processBegin, ngx_http_process_request, int, struct Request *);
 *
 * Declaring grants nothing: the extension manager's policy grants, out of what is declared here. C99 and C++11, gcc 11 and
 * clang 13 or later; nothing to link, no instruction is executed. Each macro leaves one record in the section `eim_records`, kept
 * by --gc-sections and by strip; the types of what it names come from the debug information (-g), before strip, or from
 * what `bpftime eim manifest --embed` stored. The same macros in a small C file that includes an application's public headers,
 * compiled with `cc -g -c`, describe an application that cannot be rebuilt.
 *
 * Arguments of functions are counted from 0.
 */
#ifndef BPFTIME_EIM_H
#define BPFTIME_EIM_H

#include <stdint.h>

/* ---- What may be declared ---------------------------------------------------------------------------------------------- */

/* A variable that extensions may read or write. `operation` is the word read or write; declare twice to offer both, under
 * two names. */
#define EIM_STATE_DEFINE(name, operation, variable)                                              \
  EIM_IMPL_CHECK_STATE(name, EIM_IMPL_operation_must_be_read_or_write_not_##operation, variable) \
  EIM_IMPL_RECORD(eim_state_##name, EIM_KIND_STATE,                                              \
                  EIM_IMPL_operation_must_be_read_or_write_not_##operation,                      \
                  EIM_IMPL_OBJECT_POINTER(variable), &(variable), #name, #variable)

/* A function that extensions may call. */
#define EIM_HFUNC_DEFINE(function)                                                                      \
  EIM_IMPL_CHECK_FUNCTION("EIM_HFUNC_DEFINE(" #function "): " #function " is not a function", function) \
  EIM_IMPL_RECORD(EIM_IMPL_UNIQUE(eim_hfunc_), EIM_KIND_HFUNC, 0, EIM_IMPL_FUNCTION_POINTER(function),  \
                  function, #function, #function)

/* The same with what must hold at a call and what the host promises: one or more HF_… of below, at most EIM_CONSTRAINTS_MAX. */
#define EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(function, ...)                                             \
  EIM_IMPL_CHECK_FUNCTION(                                                                           \
      "EIM_HFUNC_DEFINE_WITH_CONSTRAINTS(" #function "): " #function " is not a function", function) \
  EIM_IMPL_CONSTRAINED_RECORD(EIM_IMPL_UNIQUE(eim_hfunc_), EIM_KIND_HFUNC,                           \
                              EIM_IMPL_FUNCTION_POINTER(function), function, #function, #function,   \
                              __VA_ARGS__)

/* A host function whose entry extensions may attach to: capability name, function, result type, argument types (`void`: none).
 * The function must not be inlined where extensions shall see its calls. */
#define EIM_EXTENSION_ENTRY_DEFINE(name, function, ret, ...)                                                 \
  EIM_IMPL_CHECK_PROTOTYPE("EIM_EXTENSION_ENTRY_DEFINE(" #name "): the prototype is not that of " #function, \
                           function, ret, __VA_ARGS__)                                                       \
  enum { eim_argument_count_of_##name = EIM_IMPL_COUNT(__VA_ARGS__) };                                       \
  EIM_IMPL_RECORD(eim_entry_##name, EIM_KIND_ENTRY, 0, EIM_IMPL_PROTOTYPE_POINTER(ret, __VA_ARGS__),         \
                  function, #name, #function)

/* Names an entry's arguments for policies and generated headers, in order. Declarations keep no names in debug information; where
 * the host's definition has them this is not needed. Stands after the entry's own macro. */
#define EIM_ENTRY_ARGS(entry, ...)                                                                \
  EIM_IMPL_ASSERT((int)eim_argument_count_of_##entry == EIM_IMPL_COUNT(__VA_ARGS__),              \
                  "EIM_ENTRY_ARGS(" #entry "): one name for each argument of the entry");         \
  EIM_IMPL_RECORD(eim_entry_args_##entry, EIM_KIND_ENTRY_ARGS, 0, EIM_IMPL_NO_POINTER, 0, #entry, \
                  #__VA_ARGS__)

/* The same for a host function. */
#define EIM_HFUNC_ARGS(function, ...)                                                               \
  EIM_IMPL_RECORD(EIM_IMPL_UNIQUE(eim_hfunc_args_), EIM_KIND_HFUNC_ARGS, 0, EIM_IMPL_NO_POINTER, 0, \
                  #function, #__VA_ARGS__)

/* What the host promises about an entry's arguments: HF_ARG_NONNULL, HF_ARG_RANGE, HF_ARG_BUFFER_…. Without it extensions must test. */
#define EIM_ENTRY_PROMISES(entry, ...)                                                                     \
  EIM_IMPL_ASSERT((int)eim_argument_count_of_##entry > 0, "");                                             \
  EIM_IMPL_CONSTRAINED_RECORD(eim_entry_promises_##entry, EIM_KIND_ENTRY_PROMISES, EIM_IMPL_NO_POINTER, 0, \
                              #entry, #entry, __VA_ARGS__)

/* In every object of `type`, member `data` points to as many bytes as member `len` says. */
#define EIM_BUFFER(type, data, len)                                                                         \
  EIM_IMPL_CHECK_BUFFER("EIM_BUFFER(" #type ", " #data ", " #len "): " #data " must be a pointer to bytes", \
                        "EIM_BUFFER(" #type ", " #data ", " #len "): " #len " must be an integer", type,    \
                        data, len)                                                                          \
  EIM_IMPL_RECORD(EIM_IMPL_UNIQUE(eim_buffer_), EIM_KIND_BUFFER, 0, EIM_IMPL_TYPE_POINTER(type), 0, #type,  \
                  #data "," #len)

/* ---- Constraints ------------------------------------------------------------------------------------------------------- */

/* Promises about a host function's result. The proof relies on them and its report lists those it used. */
#define HF_RET_POSITIVE \
  { EIM_RET_POSITIVE, 0, 0, 0 } /* > 0 */
#define HF_RET_NONNEGATIVE \
  { EIM_RET_NONNEGATIVE, 0, 0, 0 } /* >= 0 */
#define HF_RET_NONNULL \
  { EIM_RET_NONNULL, 0, 0, 0 } /* a valid pointer */
#define HF_RET_MAYBE_NULL \
  { EIM_RET_MAYBE_NULL, 0, 0, 0 } /* a valid pointer or null: the extension must test it */
#define HF_RET_ERRNO \
  { EIM_RET_ERRNO, 0, 0, 0 } /* 0, or -errno (-4095 to -1) */
#define HF_RET_RANGE(low, high) \
  { EIM_RET_RANGE, 0, (low), (high) } /* both inclusive */

/* What a call must prove about argument `i`. */
#define HF_ARG_NONNULL(i) \
  { EIM_ARG_NONNULL, EIM_IMPL_ARGUMENT(i), 0, 0 }
#define HF_ARG_RANGE(i, low, high) \
  { EIM_ARG_RANGE, EIM_IMPL_ARGUMENT(i), (low), (high) } /* both inclusive */
#define HF_ARG_LESS_THAN(i, j) \
  { EIM_ARG_LESS_THAN, EIM_IMPL_ARGUMENT(i), EIM_IMPL_ARGUMENT(j), 0 } /* unsigned */
/* Argument `i` points to as many bytes as argument `length` says: read (in), written (out) or both by the host. */
#define HF_ARG_BUFFER_IN(i, length) \
  { EIM_ARG_BUFFER_IN, EIM_IMPL_ARGUMENT(i), EIM_IMPL_ARGUMENT(length), 0 }
#define HF_ARG_BUFFER_OUT(i, length) \
  { EIM_ARG_BUFFER_OUT, EIM_IMPL_ARGUMENT(i), EIM_IMPL_ARGUMENT(length), 0 }
#define HF_ARG_BUFFER_INOUT(i, length) \
  { EIM_ARG_BUFFER_INOUT, EIM_IMPL_ARGUMENT(i), EIM_IMPL_ARGUMENT(length), 0 }
#define HF_ARG_CONST_STRING(i) \
  { EIM_ARG_CONST_STRING, EIM_IMPL_ARGUMENT(i), 0, 0 } /* of the extension's read-only data */

/* Facts. A handle that a function acquires must be released exactly once on every path, by a function that releases its type. */
#define HF_ACQUIRES \
  { EIM_ACQUIRES, 0, 0, 0 }
#define HF_RELEASES(i) \
  { EIM_RELEASES, EIM_IMPL_ARGUMENT(i), 0, 0 }
#define HF_MAY_BLOCK \
  { EIM_MAY_BLOCK, 0, 0, 0 } /* may block or do I/O */
#define HF_COST(instructions) \
  { EIM_COST, 0, (instructions), 0 } /* charged to the class; 1 without */

/* ---- The records, for whoever reads them ------------------------------------------------------------------------------- */

#define EIM_SECTION "eim_records"
#define EIM_MAGIC 0x314d4945u /* "EIM1", little-endian */
#define EIM_CONSTRAINTS_MAX 12
#define EIM_ARGUMENTS_MAX 5 /* of a host function: r1 to r5 */

enum eim_kind {
  EIM_KIND_STATE = 1,      /* name, target: expression; operation */
  EIM_KIND_HFUNC,          /* name = target: function */
  EIM_KIND_ENTRY,          /* name, target: function */
  EIM_KIND_ENTRY_ARGS,     /* name: the entry's, target: names with commas */
  EIM_KIND_HFUNC_ARGS,     /* name: the function's, target: names with commas */
  EIM_KIND_ENTRY_PROMISES, /* name: the entry's */
  EIM_KIND_BUFFER          /* name: type, target: "data,len" */
};

enum eim_operation { EIM_OPERATION_READ = 1, EIM_OPERATION_WRITE = 2 };

enum eim_constraint_kind {
  EIM_RET_POSITIVE = 1,
  EIM_RET_NONNEGATIVE,
  EIM_RET_NONNULL,
  EIM_RET_MAYBE_NULL,
  EIM_RET_ERRNO,
  EIM_RET_RANGE,
  EIM_ARG_NONNULL,
  EIM_ARG_RANGE,
  EIM_ARG_LESS_THAN,
  EIM_ARG_BUFFER_IN,
  EIM_ARG_BUFFER_OUT,
  EIM_ARG_BUFFER_INOUT,
  EIM_ARG_CONST_STRING,
  EIM_ACQUIRES,
  EIM_RELEASES,
  EIM_MAY_BLOCK,
  EIM_COST
};

struct eim_constraint {
  uint32_t kind; /* enum eim_constraint_kind; 0: end of the list */
  uint32_t argument;
  int64_t low, high; /* what the kind's macro says: range, other argument, cost */
};

/* Starts every record, 8-aligned. Behind it: `target`, 8 bytes, relocated; constraint_slots of struct eim_constraint; name,
 * target and file with their NULs, of the sizes given; zeros up to the next multiple of 8. */
struct eim_record_head {
  uint32_t magic, kind, operation, line, constraint_slots, name_size, target_size, file_size;
};

/* ---- How ---------------------------------------------------------------------------------------------------------------- */

#define EIM_IMPL_operation_must_be_read_or_write_not_read EIM_OPERATION_READ
#define EIM_IMPL_operation_must_be_read_or_write_not_write EIM_OPERATION_WRITE

#if defined(__has_attribute)
#if __has_attribute(retain)
#define EIM_IMPL_RETAIN retain,
#endif
#endif
#ifndef EIM_IMPL_RETAIN
#define EIM_IMPL_RETAIN /* then the linker needs --undefined or no --gc-sections */
#endif
#define EIM_IMPL_ATTRIBUTES __attribute__((used, unused, EIM_IMPL_RETAIN section(EIM_SECTION), aligned(8)))

#define EIM_IMPL_PASTE_(a, b) a##b
#define EIM_IMPL_PASTE(a, b) EIM_IMPL_PASTE_(a, b)
#define EIM_IMPL_UNIQUE(prefix) EIM_IMPL_PASTE(prefix, __COUNTER__)

/* `pointer` declares the member `target`, so that debug information describes the type of what the record names. */
#define EIM_IMPL_RECORD(variable_name, kind, operation, pointer, target_value, name_text, target_text)     \
  static const struct {                                                                                    \
    struct eim_record_head head;                                                                           \
    pointer;                                                                                               \
    char name_string[sizeof(name_text)];                                                                   \
    char target_string[sizeof(target_text)];                                                               \
    char file_string[sizeof(__FILE__)];                                                                    \
  } variable_name EIM_IMPL_ATTRIBUTES = {                                                                  \
      {EIM_MAGIC, kind, operation, __LINE__, 0, sizeof(name_text), sizeof(target_text), sizeof(__FILE__)}, \
      target_value,                                                                                        \
      name_text,                                                                                           \
      target_text,                                                                                         \
      __FILE__}

#define EIM_IMPL_CONSTRAINED_RECORD(variable_name, kind, pointer, target_value, name_text, target_text, ...) \
  static const struct {                                                                                      \
    struct eim_record_head head;                                                                             \
    pointer;                                                                                                 \
    struct eim_constraint constraints[EIM_CONSTRAINTS_MAX];                                                  \
    char name_string[sizeof(name_text)];                                                                     \
    char target_string[sizeof(target_text)];                                                                 \
    char file_string[sizeof(__FILE__)];                                                                      \
  } variable_name EIM_IMPL_ATTRIBUTES = {{EIM_MAGIC, kind, 0, __LINE__, EIM_CONSTRAINTS_MAX,                 \
                                          sizeof(name_text), sizeof(target_text), sizeof(__FILE__)},         \
                                         target_value,                                                       \
                                         {__VA_ARGS__},                                                      \
                                         name_text,                                                          \
                                         target_text,                                                        \
                                         __FILE__}

#define EIM_IMPL_COUNT(...) \
  EIM_IMPL_COUNT_(__VA_ARGS__, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define EIM_IMPL_COUNT_(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, count, ...) count

#define EIM_IMPL_NO_POINTER const void* target
#define EIM_IMPL_PROTOTYPE_POINTER(ret, ...) ret (*target)(__VA_ARGS__)
#define EIM_IMPL_FUNCTION_POINTER(function) __typeof__(function)* target
#define EIM_IMPL_OBJECT_POINTER(variable) __typeof__(variable)* target
#define EIM_IMPL_TYPE_POINTER(type) type* target

/* __builtin_classify_type: 1 integer, 2 character, 3 enumeration, 4 boolean, 5 pointer. */
#define EIM_IMPL_IS_POINTER(expression) (__builtin_classify_type(expression) == 5)
#define EIM_IMPL_IS_INTEGER(expression) \
  (__builtin_classify_type(expression) >= 1 && __builtin_classify_type(expression) <= 4)

#define EIM_IMPL_CHECK_FUNCTION(message, function) EIM_IMPL_ASSERT(EIM_IMPL_IS_FUNCTION(function), message);
#define EIM_IMPL_CHECK_STATE(name, operation, variable)                               \
  EIM_IMPL_ASSERT(!EIM_IMPL_IS_FUNCTION(variable),                                    \
                  "EIM_STATE_DEFINE(" #name "): " #variable " is a function");        \
  EIM_IMPL_ASSERT((operation) != EIM_OPERATION_WRITE || !EIM_IMPL_IS_CONST(variable), \
                  "EIM_STATE_DEFINE(" #name ", write): " #variable " is const");

#ifdef __cplusplus

#define EIM_IMPL_ASSERT(condition, message) static_assert(condition, message)
template <typename A, typename B>
struct eim_impl_same {
  enum { value = 0 };
};
template <typename A>
struct eim_impl_same<A, A> {
  enum { value = 1 };
};
template <typename T>
struct eim_impl_is_const {
  enum { value = 0 };
};
template <typename T>
struct eim_impl_is_const<const T> {
  enum { value = 1 };
};
/* A function type takes no qualifier: const of it is itself, without being const. */
template <typename T>
struct eim_impl_is_function {
  enum { value = eim_impl_same<const T, T>::value && !eim_impl_is_const<T>::value };
};
template <typename T>
struct eim_impl_points_to_bytes {
  enum { value = 0 };
};
template <typename T>
struct eim_impl_points_to_bytes<T*> {
  enum { value = sizeof(T) == 1 };
};
template <>
struct eim_impl_points_to_bytes<void*> {
  enum { value = 1 };
};
template <>
struct eim_impl_points_to_bytes<const void*> {
  enum { value = 1 };
};
template <int i>
struct eim_impl_argument {
  static_assert(i >= 0 && i < EIM_ARGUMENTS_MAX, "EIM: arguments are counted from 0 to 4");
  enum { index = i };
};

#define EIM_IMPL_IS_FUNCTION(expression) (eim_impl_is_function<decltype(expression)>::value)
#define EIM_IMPL_IS_CONST(expression) (eim_impl_is_const<decltype(expression)>::value)
/* The record's own initialiser checks the prototype, and picks among overloads. */
#define EIM_IMPL_CHECK_PROTOTYPE(message, function, ret, ...)
#define EIM_IMPL_CHECK_BUFFER(data_message, len_message, type, data, len)                     \
  EIM_IMPL_ASSERT(eim_impl_points_to_bytes<decltype(((type*)0)->data)>::value, data_message); \
  EIM_IMPL_ASSERT(EIM_IMPL_IS_INTEGER(((type*)0)->len), len_message);
#define EIM_IMPL_ARGUMENT(i) eim_impl_argument<(i)>::index

#else

/* Before C11 glibc hides the keyword, which gcc and clang have in every mode, behind a macro that drops the message. */
#ifdef _Static_assert
#undef _Static_assert
#endif
#define EIM_IMPL_ASSERT(condition, message) __extension__ _Static_assert(condition, message)
/* A function's name and its address are the same pointer after decay. */
#define EIM_IMPL_IS_FUNCTION(expression) \
  __builtin_types_compatible_p(__typeof__(&(expression)), __typeof__(1 ? (expression) : (expression)))
#define EIM_IMPL_IS_CONST(expression) \
  __builtin_types_compatible_p(__typeof__(&(expression)), const __typeof__(expression)*)
#define EIM_IMPL_CHECK_PROTOTYPE(message, function, ret, ...) \
  EIM_IMPL_ASSERT(__builtin_types_compatible_p(__typeof__(&(function)), ret (*)(__VA_ARGS__)), message);
#define EIM_IMPL_CHECK_BUFFER(data_message, len_message, type, data, len)                                \
  EIM_IMPL_ASSERT(EIM_IMPL_IS_POINTER(((type*)0)->data) && __extension__ sizeof(*((type*)0)->data) == 1, \
                  data_message);                                                                         \
  EIM_IMPL_ASSERT(EIM_IMPL_IS_INTEGER(((type*)0)->len), len_message);
/* A bit-field of negative width names the mistake. */
#define EIM_IMPL_ARGUMENT(i)                                                                                 \
  ((uint32_t)(i) + 0 * (uint32_t)sizeof(struct {                                                             \
                     int EIM_arguments_are_counted_from_0_to_4 : ((i) >= 0 && (i) < EIM_ARGUMENTS_MAX) ? 1   \
                                                                                                       : -1; \
                   }))

#endif /* __cplusplus */

#endif /* BPFTIME_EIM_H */
