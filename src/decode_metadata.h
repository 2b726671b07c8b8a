/*-------------------------------------------------------------------------
 *
 * decode_metadata.h
 *	  Columns that tell about the message rather than from it
 *
 * Partition, offset, timestamp, headers and topic, but not key and value,
 * whose bytes can become any type.
 *
 * IDENTIFICATION
 *	  src/decode_metadata.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_METADATA_H
#define KAPPA_DECODE_METADATA_H

#include "decode.h"

/* Throw 42804 if a column has a type that its metadata cannot fill. */
extern void kappa_metadata_check_type(const KappaColumn *column);

/* As kappa_decode_message() does; the Datum of a deferred cell is unused. */
extern KappaCellState kappa_metadata_fill(const KappaColumn *column,
										  const char *topic,
										  const KappaMessage *message,
										  Datum *result);

/* Finish a deferred cell. */
extern Datum kappa_metadata_convert(const KappaColumn *column,
									const KappaMessage *message);

#endif /* KAPPA_DECODE_METADATA_H */
