import { renderDocument } from './page.js';
import { planData, type PlanSource } from './plan-data.js';
import { PLAN_STYLE } from './plan-style.js';
import { STYLE } from './style.js';

/** The page of a plan: ranks over time, groups coloured by degree, what is idle, the bound; every group in a table. */
export const planPage = (source: PlanSource): string =>
  renderDocument({
    title: source.title,
    data: planData(source),
    modules: ['sizes', 'dom', 'plan-view', 'plan-picture', 'plan'],
    style: STYLE + PLAN_STYLE,
  });
