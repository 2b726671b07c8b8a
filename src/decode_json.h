/*-------------------------------------------------------------------------
 *
 * decode_json.h
 *	  One pass over a JSON text: is it well-formed, and where are the fields
 *
 * The parser looks at every byte of the text and accepts exactly what
 * PostgreSQL's jsonb accepts, but for the nesting depth, which has a limit of
 * its own, and the size of numbers, which is the converter's business.  On the
 * way it notes where the wanted fields stand.  It converts nothing and copies
 * nothing: a KappaJsonValue points into the text.
 *
 * The functions are written in C++, whose files include this header inside
 * extern "C".  It needs nothing of PostgreSQL, and no function here throws.
 *
 * IDENTIFICATION
 *	  src/decode_json.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_JSON_H
#define KAPPA_DECODE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Objects and arrays within each other; jsonb's limit is the stack's. */
#define KAPPA_JSON_MAX_DEPTH 1024

/* Longest text: room for a header less than PostgreSQL can allocate. */
#define KAPPA_JSON_MAX_LENGTH 0x3fffff00

typedef enum KappaJsonKind
{
	KAPPA_JSON_MISSING = 0,
	KAPPA_JSON_NULL,
	KAPPA_JSON_FALSE,
	KAPPA_JSON_TRUE,
	KAPPA_JSON_NUMBER,
	KAPPA_JSON_STRING,
	KAPPA_JSON_ARRAY,
	KAPPA_JSON_OBJECT,
} KappaJsonKind;

/* A value of the text.  A string is given without its quotes. */
typedef struct KappaJsonValue
{
	const char *start;
	uint32_t len;
	uint8_t kind; /* KappaJsonKind */
	bool escaped; /* a string with a backslash in it */
} KappaJsonValue;

/* A value as it is written, a string with its quotes. */
static inline const char *
kappa_json_source(const KappaJsonValue *value, size_t *len)
{
	int quote = value->kind == KAPPA_JSON_STRING ? 1 : 0;

	*len = value->len + 2 * quote;
	return value->start - quote;
}

typedef enum KappaJsonError
{
	KAPPA_JSON_OK = 0,
	KAPPA_JSON_NO_MEMORY, /* the one that is not the text's fault */
	KAPPA_JSON_EMPTY,
	KAPPA_JSON_TOO_LONG,
	KAPPA_JSON_TOO_DEEP,
	KAPPA_JSON_BAD_UTF8,
	KAPPA_JSON_UNFINISHED,
	KAPPA_JSON_UNFINISHED_STRING,
	KAPPA_JSON_CONTROL_CHARACTER,
	KAPPA_JSON_BAD_ESCAPE,
	KAPPA_JSON_NUL_ESCAPE,
	KAPPA_JSON_BAD_SURROGATE,
	KAPPA_JSON_BAD_NUMBER,
	KAPPA_JSON_NO_VALUE,
	KAPPA_JSON_NO_NAME,
	KAPPA_JSON_NO_COLON,
	KAPPA_JSON_NO_COMMA,
	KAPPA_JSON_TRAILING,
} KappaJsonError;

/*
 * What is wanted below one place of a document.  A node stands for a member of
 * an object and, if its name is a number, also for an element of an array.
 * Nodes are numbered so that all slots below a node are neighbours.
 */
typedef struct KappaJsonNode
{
	const char *name;
	uint32_t name_len;
	int32_t index;     /* as an element of an array; -1 if it cannot be one */
	int slot;          /* where the value itself goes; -1 if nobody wants it */
	int first_slot;    /* slots of the node and of all below it ... */
	int end_slot;      /* ... and the first one behind them */
	int32_t max_index; /* largest index among the children; -1 if none has one */
	int nchildren;
	struct KappaJsonNode **children;
	uint32_t mask;                  /* size of members, less 1 */
	struct KappaJsonNode **members; /* children by kappa_json_hash(); NULL: free */
} KappaJsonNode;

/* All fields wanted of a document. */
typedef struct KappaJsonPaths
{
	KappaJsonNode *root;
	int nslots;
	uint32_t max_name_len;          /* longest name of any node */
	char *scratch;                  /* 6 * max_name_len bytes, to unescape names in */
	struct KappaJsonShapes *shapes; /* of the texts so far; see decode_json_shape.h */
} KappaJsonPaths;

/* Cheap, and good enough for the few names of a table. */
static inline uint32_t
kappa_json_hash(const char *name, uint32_t len)
{
	if (len == 0)
		return 0;
	return len * 5 + (unsigned char) name[0] * 3 +
		   (unsigned char) name[len - 1];
}

typedef struct KappaJsonParser KappaJsonParser;

/* NULL if memory is short. */
extern KappaJsonParser *kappa_json_parser_create(void);
extern void kappa_json_parser_free(KappaJsonParser *parser);

/*
 * Check a text and fill values[paths->nslots].  The text needs no padding and
 * is not copied.  On an error all values are missing, and *position is the byte
 * where the text goes wrong, or -1 if that is not known.
 */
extern KappaJsonError kappa_json_parse(KappaJsonParser *parser,
									   const char *text, size_t len,
									   const KappaJsonPaths *paths,
									   KappaJsonValue *values,
									   int64_t *position);

/*
 * Check the escapes of a string, from its first backslash on, which *p is at.
 * On an error *p is where it is.
 */
extern KappaJsonError kappa_json_check_escapes(const char **p, const char *end);

/*
 * Resolve the escapes of a string that kappa_json_parse() has accepted.  dest
 * has room for len bytes, which is always enough.  Returns the new length.
 */
extern size_t kappa_json_unescape(const char *string, size_t len, char *dest);

/*
 * The float nearest to a decimal number.  False if the text is not wholly a
 * plain number, or is out of range, or is zero without all its digits being.
 */
extern bool kappa_json_float8(const char *text, size_t len, double *result);
extern bool kappa_json_float4(const char *text, size_t len, float *result);

#endif /* KAPPA_DECODE_JSON_H */
