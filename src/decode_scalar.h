/*-------------------------------------------------------------------------
 *
 * decode_scalar.h
 *	  Fast conversions from text to the common types
 *
 * Each conversion handles the usual forms of a value and gives exactly what
 * the type's input function would; anything else it leaves to that function.
 * Nothing here throws, but for lack of memory.
 *
 * IDENTIFICATION
 *	  src/decode_scalar.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_SCALAR_H
#define KAPPA_DECODE_SCALAR_H

typedef enum KappaScalar
{
	KAPPA_SCALAR_NONE = 0, /* always through the input function */
	KAPPA_SCALAR_BOOL,
	KAPPA_SCALAR_INT2,
	KAPPA_SCALAR_INT4,
	KAPPA_SCALAR_INT8,
	KAPPA_SCALAR_FLOAT4,
	KAPPA_SCALAR_FLOAT8,
	KAPPA_SCALAR_NUMERIC,
	KAPPA_SCALAR_TEXT, /* text, and varchar with or without a length */
	KAPPA_SCALAR_DATE,
	KAPPA_SCALAR_TIMESTAMP,
	KAPPA_SCALAR_TIMESTAMPTZ,
	KAPPA_SCALAR_UUID,
} KappaScalar;

/* The conversion for a type. */
extern KappaScalar kappa_scalar_for_type(Oid type);

/*
 * Convert text that is valid in the server encoding; it need not end with a
 * NUL.  False: ask the input function.  By-reference results are palloc'd.
 */
extern bool kappa_scalar_from_text(KappaScalar scalar, int32 typmod,
								   const char *text, Size len, Datum *result);

/* The same for the text of a JSON number, which means what jsonb makes of it. */
extern bool kappa_scalar_from_number(KappaScalar scalar, int32 typmod,
									 const char *text, Size len,
									 Datum *result);

/* True if jsonb would show the number just as it is written. */
extern bool kappa_scalar_is_plain_number(const char *text, Size len);

#endif /* KAPPA_DECODE_SCALAR_H */
