/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  From the bytes of a message to column values
 *
 * Decoding has two steps.  kappa_decode_message() looks at every byte once: it
 * decides whether the message is a row at all (well-formedness does not depend
 * on the columns that a query asks for) and fills one cell for each column of
 * the decoder.  It does not throw for anything that a message can contain.
 * A cell whose conversion needs a type's input function, or whose fast
 * conversion met something unusual, is left "deferred"; kappa_decode_cell()
 * finishes it, in the reader's memory context, under the reader's role, and
 * throws the type's own error.  So an error belongs to the column that is
 * read, never to a neighbour that does not read it.
 *
 * No Kafka call is made here and no catalog of kappa is read.
 *
 * IDENTIFICATION
 *	  src/decode.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_H
#define KAPPA_DECODE_H

#include "compat.h"
#include "fdw_options.h"
#include "message.h"

typedef enum KappaCellState
{
	KAPPA_CELL_NULL = 0,
	KAPPA_CELL_VALUE,    /* the Datum is the value */
	KAPPA_CELL_DEFERRED, /* the Datum points to what kappa_decode_cell needs */
} KappaCellState;

typedef struct KappaDecoder KappaDecoder;

/* What is wrong with a message as a whole. */
typedef struct KappaMalformed
{
	const char *reason; /* static text, such as "unexpected character after value" */
	int sqlstate;       /* as made by MAKE_SQLSTATE */
	bool in_key;
	int position; /* byte, from 0; -1 if unknown */
} KappaMalformed;

/*
 * Make a decoder for some columns of a foreign table (attribute numbers, no
 * offset; empty: only well-formedness is checked).  Lives in
 * CurrentMemoryContext, together with the C++ parser behind it.
 */
extern KappaDecoder *kappa_decoder_create(const KappaTable *table, Bitmapset *columns);

/* Number of cells, and the cell of a column (-1 if it was not asked for). */
extern int kappa_decoder_ncells(const KappaDecoder *decoder);
extern int kappa_decoder_cell(const KappaDecoder *decoder, AttrNumber attnum);

/*
 * Decode one message into values[ncells] and states[ncells].  Returns true if
 * the message is a row; otherwise *malformed says why, and every cell that does
 * not come from the broken part is filled all the same.  By-reference values
 * are allocated in CurrentMemoryContext or point into the message: the cells
 * are valid while both live.
 *
 * An empty value (tombstone) is well-formed: its field columns are NULL.
 */
extern bool kappa_decode_message(KappaDecoder *decoder, const KappaMessage *message,
								 Datum *values, uint8 *states,
								 KappaMalformed *malformed);

/*
 * Check well-formedness of value and key only; fill the cells of key columns
 * (KappaColumn.key) and leave the others NULL.  For the first pass over a
 * changelog.
 */
extern bool kappa_decode_keys(KappaDecoder *decoder, const KappaMessage *message,
							  Datum *values, uint8 *states,
							  KappaMalformed *malformed);

/*
 * Finish a cell, whatever its state.  Throws the type's error with context:
 * topic, partition, offset, column, and the start of the value.
 */
extern Datum kappa_decode_cell(KappaDecoder *decoder, int cell,
							   const KappaMessage *message,
							   Datum value, uint8 state, bool *isnull);

/*
 * Throw the error for a malformed message (22P02 or 22021, ...): "message is not valid JSON",
 * with topic, partition, offset and the start of the value.
 */
pg_noreturn extern void kappa_decode_report_malformed(const KappaDecoder *decoder,
													  const KappaMessage *message,
													  const KappaMalformed *malformed);

/* Bytes as a value of type bytea. */
extern Datum kappa_decode_make_bytea(const char *bytes, Size len);

#endif /* KAPPA_DECODE_H */
