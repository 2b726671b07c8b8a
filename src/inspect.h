/*-------------------------------------------------------------------------
 *
 * inspect.h
 *	  What SQL can see of kappa's processes
 *
 * IDENTIFICATION
 *	  src/inspect.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_INSPECT_H
#define KAPPA_INSPECT_H

#include "fmgr.h"

/*
 * Let go of the statement's snapshot while a function waits, if the statement
 * is nothing but a call of this function: nobody will look through it again.
 * Otherwise it is kept.  Snapshots that are taken later are announced again,
 * until the next call.
 */
extern void kappa_inspect_release_snapshot(FunctionCallInfo fcinfo);

/* An interval as milliseconds, between 0 and ten years. */
extern int64 kappa_inspect_timeout(FunctionCallInfo fcinfo, int argument);

#endif /* KAPPA_INSPECT_H */
