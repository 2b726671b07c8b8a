/*-------------------------------------------------------------------------
 *
 * anchor.h
 *	  Whether a topic that is being read is still the same one
 *
 * IDENTIFICATION
 *	  src/anchor.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_ANCHOR_H
#define KAPPA_ANCHOR_H

#include "source.h"

/* Take the last message of a partition as its anchor, if it has none. */
extern void kappa_anchor_propose(KappaSource *source, int partition);

/*
 * Ask the brokers about the anchors; throws.  If one of them may have been
 * replaced by another message, the source is started again, and the views compare
 * that message; it is no anchor any more.
 */
extern void kappa_anchor_check(KappaSource *source, KafkaTopic *topic);

#endif /* KAPPA_ANCHOR_H */
