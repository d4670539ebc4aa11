%%% @private
%%% @doc User atoms in match patterns of `ets'.
%%%
%%% A store or a channel may have the name `_' or `$1', which match anything in a pattern.
%%% @end
-module(esdb_gater_match).

-export([exactly/2]).

%% @doc Returns a pattern that matches only the given atom, and the guards that go with it.
%% `Variable', such as `$9', must not be used elsewhere in the pattern. A full table scan is needed
%% only for the few atoms that have a meaning for `ets'.
-spec exactly(atom(), Variable :: atom()) -> {Pattern :: atom(), Guards :: [tuple()]}.
exactly(Atom, Variable) ->
    case atom_to_binary(Atom) of
        <<"_">> -> guarded(Atom, Variable);
        <<"$", _/binary>> -> guarded(Atom, Variable);
        _ -> {Atom, []}
    end.

guarded(Atom, Variable) ->
    {Variable, [{'=:=', Variable, {const, Atom}}]}.
