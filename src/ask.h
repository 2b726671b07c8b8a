/*-------------------------------------------------------------------------
 *
 * ask.h
 *	  Questions to the brokers about a source, while it is read
 *
 * None of these throws but for kappa_ask_topic(), and none waits for long: the
 * worker's other sources have to go on.
 *
 * IDENTIFICATION
 *	  src/ask.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_ASK_H
#define KAPPA_ASK_H

#include "source.h"

/* Between two questions for the end offsets while behind. */
#define KAPPA_ENDS_INTERVAL_MS 1000

/* Run a step that asks; returns its error, in KappaRoundContext, or NULL. */
extern ErrorData *kappa_ask_attempt(void (*step)(void *arg), KappaSource *source);

/* The handle to ask through, which a fetch does not keep waiting; throws. */
extern KafkaTopic *kappa_ask_topic(KappaSource *source);

/* Note which partitions have no leader. */
extern void kappa_ask_note_leaderless(KappaSource *source, const Bitmapset *leaderless);

/* What to say of them. */
extern ErrorData kappa_ask_describe_leaderless(KappaSource *source, const char *detail);

/* Ask for the end offsets now; false if they could not be had. */
extern bool kappa_ask_ends(KappaSource *source);

/* Likewise; false also if there are partitions that the source does not know yet. */
extern bool kappa_ask_all_ends(KappaSource *source);

/* Look for new partitions, for leaders, and whether it is still the same topic. */
extern void kappa_ask_about_topic(KappaSource *source, TimestampTz now);

/* Serve client-wide errors of all connections. */
extern void kappa_ask_check_connections(TimestampTz now);

/* The configuration has changed: a shorter interval holds at once. */
extern void kappa_ask_hasten_metadata(void);

#endif /* KAPPA_ASK_H */
