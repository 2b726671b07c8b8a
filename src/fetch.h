/*-------------------------------------------------------------------------
 *
 * fetch.h
 *	  Take what has arrived for a source, until it is delivered
 *
 * IDENTIFICATION
 *	  src/fetch.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FETCH_H
#define KAPPA_FETCH_H

#include "source.h"

/* Take what there is, up to a batch; without waiting. */
extern void kappa_fetch_gather(KappaSource *source);

/* Give the messages in hand back. */
extern void kappa_fetch_release(KappaSource *source);

#endif /* KAPPA_FETCH_H */
