%%% @private
%%% @doc Atoms of users in match patterns of `ets'.
%%%
%%% A store or a channel may be called `_' or `$1', which in a pattern match anything.
%%% @end
-module(esdb_gater_match).

-export([exactly/2]).

%% @doc Returns what stands for an atom in a pattern, and the guards that go with it. `Variable',
%% such as `$9', must not be used elsewhere in the pattern. Only for the few atoms that mean
%% something to `ets' is a table searched as a whole.
-spec exactly(atom(), Variable :: atom()) -> {Pattern :: atom(), Guards :: [tuple()]}.
exactly(Atom, Variable) ->
    case atom_to_binary(Atom) of
        <<"_">> -> guarded(Atom, Variable);
        <<"$", _/binary>> -> guarded(Atom, Variable);
        _ -> {Atom, []}
    end.

guarded(Atom, Variable) ->
    {Variable, [{'=:=', Variable, {const, Atom}}]}.
