/*-------------------------------------------------------------------------
 *
 * decode_json_shape.h
 *	  What JSON texts of a topic usually look like, so as to check them faster
 *
 * Messages of a topic tend to differ in their values only: what stands between
 * these (brackets, names, colons, commas, white space) is the same, byte for
 * byte.  That is a shape.  Where a text has a shape that was seen before, it is
 * enough to compare these bytes and to check the values, which takes less than
 * half the time; and the shape knows which values are wanted.  Whatever is not
 * recognised goes to the parser, so this changes the time and nothing else.
 *
 * The idea of guessing that a text looks like the one before is Mison's (Y. Li
 * et al., "Mison: A Fast JSON Parser for Data Analytics", VLDB 2017).  Unlike
 * there, all of the text is checked.
 *
 * For C++ and C; needs nothing of PostgreSQL.
 *
 * IDENTIFICATION
 *	  src/decode_json_shape.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_JSON_SHAPE_H
#define KAPPA_DECODE_JSON_SHAPE_H

#include "decode_json.h"

/* What is kept of the shapes of one document; a full table learns no more. */
#define KAPPA_JSON_MAX_PIECES 256
#define KAPPA_JSON_MAX_MARKS 64
#define KAPPA_JSON_SHAPE_BYTES 8192

/* In a piece, where an object or array that is wanted as a whole begins or ends. */
typedef struct KappaJsonMark
{
	uint16_t offset; /* of its bracket, from the start of the piece */
	int16_t slot;
	uint8_t kind; /* KappaJsonKind */
	bool ends;
} KappaJsonMark;

/*
 * The bytes in front of a value or, in the last piece, of the end of the text.
 * Pieces that can stand at the same place, after the same ones, are a list; so
 * all shapes together are a tree.  0 is no piece.
 */
typedef struct KappaJsonPiece
{
	uint64_t word[2]; /* its first 16 bytes, as load_word() gives them ... */
	uint64_t mask[2]; /* ... and which of these it has */
	uint16_t len;
	uint16_t bytes;     /* where all of it is, in KappaJsonShapes.bytes */
	int16_t slot;       /* of the value behind it; -1: nobody wants it */
	uint16_t next;      /* what may come behind the value */
	uint16_t sibling;   /* what else may stand here */
	uint8_t first_mark; /* of nmarks in KappaJsonShapes.marks */
	uint8_t nmarks;
	bool is_last;
} KappaJsonPiece;

/* All zero, there are no shapes yet. */
typedef struct KappaJsonShapes
{
	uint16_t first; /* what a text may begin with */
	uint16_t npieces;
	uint16_t nmarks;
	uint16_t nbytes;

	/* Whether it pays to look: texts recognised, less texts that were not. */
	int32_t score;
	uint32_t pause;     /* texts to pass by, until it is tried anew */
	uint32_t npauses;   /* so far, each longer than the one before */
	uint32_t fruitless; /* texts in a row of which nothing was learned */

	KappaJsonPiece pieces[KAPPA_JSON_MAX_PIECES]; /* the first is not used */
	KappaJsonMark marks[KAPPA_JSON_MAX_MARKS];
	char bytes[KAPPA_JSON_SHAPE_BYTES];
} KappaJsonShapes;

/*
 * True if the text has one of the shapes and is well-formed.  Then the values
 * are set as kappa_json_parse() would, but for those that are missing, which it
 * leaves alone; otherwise some of them may be set to anything.
 */
extern bool kappa_json_shapes_match(KappaJsonShapes *shapes, const char *text,
									size_t len, KappaJsonValue *values);

/*
 * Learn the shape of a text that kappa_json_shapes_match() did not recognise,
 * but the parser accepted.  "tokens" are the ntokens positions of stage 1, and
 * one behind them, which is len; "values" is what the parser has found for
 * nslots slots.
 */
extern void kappa_json_shapes_learn(KappaJsonShapes *shapes, const char *text,
									size_t len, const uint32_t *tokens,
									uint32_t ntokens,
									const KappaJsonValue *values, int nslots);

#endif /* KAPPA_DECODE_JSON_SHAPE_H */
