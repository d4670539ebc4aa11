%%% PropEr without its header: rebar3 hides the header of an installed application that is no
%%% dependency. Its own macros come to the same calls.
-define(FORALL(X, Type, Holds), proper:forall(Type, fun(X) -> Holds end)).
-define(SUCHTHAT(X, Type, Holds), proper_types:add_constraint(Type, fun(X) -> Holds end, true)).
-import(proper_types, [any/0, frequency/1, list/1, oneof/1, range/2]).
