/*-------------------------------------------------------------------------
 *
 * decode_error.h
 *	  Which message, which column, which bytes an error is about
 *
 * IDENTIFICATION
 *	  src/decode_error.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_ERROR_H
#define KAPPA_DECODE_ERROR_H

#include "decode.h"
#include "decode_json.h"
#include "lib/stringinfo.h"

/* Filled by the caller of kappa_decode_error_push(), but for the last field. */
typedef struct KappaErrorSubject
{
	const char *topic;
	const KappaMessage *message;
	const char *column; /* NULL: the whole message */
	const char *bytes;  /* what the column was to be made of; may be NULL */
	Size len;
	ErrorContextCallback callback;
} KappaErrorSubject;

/*
 * Errors thrown between the two calls carry topic, partition, offset, column
 * and the start of the bytes as their context.  Costs next to nothing as long
 * as nothing is thrown.  The subject is the caller's, on the stack.
 */
extern void kappa_decode_error_push(KappaErrorSubject *subject);
extern void kappa_decode_error_pop(const KappaErrorSubject *subject);

/*
 * Append bytes so that any terminal and any encoding can show them: valid
 * characters as they are, all else as \x and two digits.
 */
extern void kappa_decode_error_append(StringInfo buf, const char *bytes, Size len);

/*
 * Say what is wrong with a text that kappa_json_parse() has refused.  Throws
 * if it is not the text's fault.
 */
extern void kappa_decode_error_describe(KappaMalformed *malformed,
										KappaJsonError error, int64 position,
										bool in_key, const char *text, Size len);

#endif /* KAPPA_DECODE_ERROR_H */
