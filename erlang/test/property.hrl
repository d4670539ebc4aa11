%%% Properties without PropEr's header: rebar3 hides the header of an installed application that is
%%% no dependency, and where PropEr is not installed a property is left out.
-define(FORALL(X, Type, Holds), esdb_gater_gen:holds(fun() -> Type end, fun(X) -> Holds end)).
-define(SUCHTHAT(X, Type, Holds), proper_types:add_constraint(Type, fun(X) -> Holds end, true)).
-import(proper_types, [any/0, frequency/1, list/1, oneof/1, range/2]).
