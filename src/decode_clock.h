/*-------------------------------------------------------------------------
 *
 * decode_clock.h
 *	  Dates and times that would depend on when they are read
 *
 * IDENTIFICATION
 *	  src/decode_clock.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_DECODE_CLOCK_H
#define KAPPA_DECODE_CLOCK_H

#include "utils/jsonb.h"

/* At which places of a type's values a date or time can stand. */
typedef struct KappaClockShape KappaClockShape;

/* palloc'd; of any type, also one without dates. */
extern KappaClockShape *kappa_clock_create_shape(Oid type);

/*
 * Throw 22007 if a value of the type, in its text form or as a part of a
 * document, would depend on the clock.
 */
extern void kappa_clock_check_text(const KappaClockShape *shape,
								   const char *text);
extern void kappa_clock_check_json(const KappaClockShape *shape,
								   const JsonbValue *value);

/* Throw 22007 if one of the words that stand for a time of now is in the text. */
extern void kappa_clock_check_words(const char *text);

#endif /* KAPPA_DECODE_CLOCK_H */
