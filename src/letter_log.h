/*-------------------------------------------------------------------------
 *
 * letter_log.h
 *	  Read again what the log has beside a dead letter
 *
 * IDENTIFICATION
 *	  src/letter_log.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_LETTER_LOG_H
#define KAPPA_LETTER_LOG_H

#include "apply.h"
#include "fdw_ranges.h"

typedef struct KappaLetterLog KappaLetterLog;

/*
 * Connect to the topic of a version as the owner of its view.  Lives in
 * CurrentMemoryContext, whose reset closes it.
 */
extern KappaLetterLog *kappa_letter_log_open(const KappaApplier *applier);

/* Whether the log still reaches back to an offset. */
extern bool kappa_letter_log_has(const KappaLetterLog *log, int32 partition, int64 offset);

/*
 * Call a function for each message of some ranges, sorted by partition and
 * start, with the message as it is valid until the function returns.
 */
extern void kappa_letter_log_read(KappaLetterLog *log, const KappaRange *ranges, int n,
								  void (*visit)(const KappaMessage *message, void *arg),
								  void *arg);

/* A copy of all that a message points to, in CurrentMemoryContext. */
extern void kappa_letter_log_copy(KappaMessage *to, const KappaMessage *from);

#endif /* KAPPA_LETTER_LOG_H */
