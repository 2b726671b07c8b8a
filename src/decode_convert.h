/*-------------------------------------------------------------------------
 *
 * decode_convert.h
 *	  Conversion to any type, by PostgreSQL's own functions
 *
 * What the fast conversions leave over ends here, and the result defines what
 * a value means: a string or number is read by the type's input function, as
 * COPY reads a column; an array or object becomes an array or composite as in
 * jsonb_to_record(), and jsonb's text for any other type.
 *
 * All functions throw the type's own errors.  Results are in
 * CurrentMemoryContext.
 *
 * IDENTIFICATION
 *	  src/decode_convert.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_CONVERT_H
#define KAPPA_DECODE_CONVERT_H

#include "decode_json.h"

typedef struct KappaConversion KappaConversion;

/* Lives in CurrentMemoryContext. */
extern KappaConversion *kappa_conversion_create(Oid type, int32 typmod);

/* A missing field or JSON null: NULL, unless a domain forbids it. */
extern Datum kappa_convert_null(KappaConversion *conversion, bool *isnull);

/* Text that ends with a NUL and is valid in the server encoding. */
extern Datum kappa_convert_cstring(KappaConversion *conversion, char *text,
								   bool *isnull);

/* Bytes that may be anything, taken as text. */
extern Datum kappa_convert_bytes(KappaConversion *conversion,
								 const char *bytes, Size len, bool *isnull);

/* A value that kappa_json_parse() has found. */
extern Datum kappa_convert_json(KappaConversion *conversion,
								const KappaJsonValue *value, bool *isnull);

#endif /* KAPPA_DECODE_CONVERT_H */
