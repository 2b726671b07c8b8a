/*-------------------------------------------------------------------------
 *
 * progress.h
 *	  Show how the views of a source are doing, and where they stand
 *
 * IDENTIFICATION
 *	  src/progress.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_PROGRESS_H
#define KAPPA_PROGRESS_H

#include "source.h"

/*
 * Publish positions and states, and note who has come close to the end.
 * ends_are_fresh: the end offsets were asked for just now.
 */
extern void kappa_progress_report(KappaSource *source, bool ends_are_fresh);

#endif /* KAPPA_PROGRESS_H */
