/*-------------------------------------------------------------------------
 *
 * waiters.h
 *	  Answer backends that wait until a view has applied all of its log
 *
 * IDENTIFICATION
 *	  src/waiters.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_WAITERS_H
#define KAPPA_WAITERS_H

#include "source.h"

/* Look for requests in shared memory. */
extern void kappa_waiters_collect(void);

/*
 * For the requests about views of a source: take the end offsets of new ones,
 * answer those that are met.
 */
extern void kappa_waiters_serve(KappaSource *source);

/* Whether anyone waits for a view of the source. */
extern bool kappa_waiters_exist(KappaSource *source);

#endif /* KAPPA_WAITERS_H */
