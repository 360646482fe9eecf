/** Components that are rendered again only when one of their properties has changed. */
import { Component, createElement, type FunctionComponent } from "preact";

/** The component of preact/compat, which would add several kilobytes for it. */
export function memo<F extends FunctionComponent<never>>(inner: F): F {
  type Properties = Parameters<F>[0];
  class Memo extends Component<Properties> {
    override shouldComponentUpdate(next: Properties): boolean {
      return !hasEqualValues(this.props, next);
    }

    override render() {
      return createElement(inner as unknown as FunctionComponent, this.props);
    }
  }
  return Memo as unknown as F;
}

export function hasEqualValues(left: object, right: object): boolean {
  const names = Object.keys(left);
  return (
    names.length === Object.keys(right).length &&
    names.every(
      (name) => name in right && Object.is(Reflect.get(left, name), Reflect.get(right, name)),
    )
  );
}
