%%% @doc Generated terms for the properties, PropEr permitting.
%%%
%%% PropEr is called without its header, so that the tests compile where it is not installed;
%%% there a property says so and is left out.
-module(esdb_gater_gen).

-export([holds/2, message/0, mutated/1, vectors/0, library/0]).

%% @doc A property for eunit: `Property' is called with one value of a type. None, so that nothing is
%% counted as passed, where PropEr is not installed.
-spec holds(fun(() -> term()), fun((term()) -> boolean())) -> [{timeout, pos_integer(), fun()}].
holds(Type, Property) ->
    case code:which(proper) of
        non_existing ->
            io:format(user, "~n*** LEFT OUT: a property; PropEr is not installed ***~n", []),
            [];
        _ ->
            [{timeout, 300, fun() -> check(Type, Property) end}]
    end.

check(Type, Property) ->
    Options = [{numtests, 500}, {max_size, 40}, {on_output, fun(_, _) -> ok end}],
    case proper:quickcheck(proper:forall(Type(), Property), Options) of
        true -> ok;
        false -> error({counterexample, proper:counterexample()})
    end.

%% @doc A map to sign.
-spec message() -> term().
message() ->
    proper_types:sized(
      fun(Size) ->
          Of = fun(Pairs) -> maps:from_list(Pairs) end,
          Small = few(8, proper_types:tuple([key(Size), term(Size)])),
          %% Above 32 keys a map is another thing inside the BEAM.
          Large = proper_types:vector(40, proper_types:tuple([atom(), small()])),
          proper_types:bind(proper_types:frequency([{9, Small}, {1, Large}]), Of, false)
      end).

key(Size) ->
    proper_types:frequency([{5, atom()},
                            {1, proper_types:oneof([signature, signed_at, 1, 1.0, -1, 0.0])},
                            {2, term(Size div 8)}]).

term(0) ->
    small();
term(Size) ->
    Inner = proper_types:lazy(fun() -> term(Size div 3) end),
    Elements = few(4, Inner),
    proper_types:frequency(
      [{4, small()},
       {1, Elements},
       {1, proper_types:bind(Elements, fun list_to_tuple/1, false)},
       {1, proper_types:bind(proper_types:tuple([Elements, small()]),
                             fun({Heads, Tail}) -> improper(Heads, Tail) end, false)},
       {1, proper_types:bind(few(4, proper_types:tuple([Inner, Inner])),
                             fun maps:from_list/1, false)},
       {1, proper_types:bind(few(8, proper_types:tuple([atom(), small()])),
                             fun maps:from_list/1, false)}]).

%% Lists of PropEr's own grow with the size at every level: terms would explode.
few(Most, Type) ->
    proper_types:bind(proper_types:range(0, Most), fun(N) -> proper_types:vector(N, Type) end,
                      true).

improper([], Tail) -> Tail;
improper(Heads, Tail) -> Heads ++ Tail.

small() ->
    proper_types:oneof(
      [atom(), proper_types:integer(), proper_types:float(), proper_types:binary(),
       proper_types:bitstring(), proper_types:boolean(),
       proper_types:list(proper_types:byte()),
       proper_types:bind(proper_types:tuple([proper_types:integer(), proper_types:range(0, 2200)]),
                         fun({N, Bits}) -> (N bsl Bits) + N end, false),
       proper_types:oneof([1, 1.0, [], {}, #{}, <<>>, -0.0, 255, 256, -1, 1 bsl 27, 1 bsl 31,
                           -(1 bsl 31), -(1 bsl 31) - 1, 1 bsl 59, 1 bsl 63, 1 bsl 64]),
       proper_types:bind(proper_types:integer(), fun identifier/1, false)]).

%% What only a BEAM makes.
identifier(N) ->
    case N rem 4 of
        0 -> self();
        1 -> make_ref();
        %% Local funs cannot be signed: their bytes are those of one process.
        _ -> fun lists:map/2
    end.

%% In Latin-1, beyond it, long, and so many of them that maps have keys in all orders.
atom() ->
    proper_types:oneof(
      [proper_types:bind(proper_types:range(0, 60),
                         fun(N) -> list_to_atom("key_" ++ integer_to_list(N)) end, false),
       proper_types:oneof(['', a, 'B', ok, 'größe', 'ÿ', 'Ā', 'имя', '名前', '😀',
                           long($x, 255), long(16#1F600, 255), long($ü, 200)])]).

long(Char, Length) ->
    binary_to_atom(unicode:characters_to_binary(lists:duplicate(Length, Char))).

%% @doc A signed message and what an attacker, a slow clock or a bug may make of it.
-spec mutated(fun((map()) -> map())) -> term().
mutated(Sign) ->
    Now = os:system_time(second),
    Changes = [fun(M) -> M end,
               fun(M) -> maps:remove(signature, M) end,
               fun(M) -> maps:remove(signed_at, M) end,
               fun(M) -> M#{other => 1} end,
               fun(M) -> M#{signature => <<>>} end,
               fun(M) -> M#{signature => binary:copy(<<"A">>, 44)} end,
               fun(M) -> M#{signature => <<"A", (maps:get(signature, M))/binary>>} end,
               fun(M) -> M#{signature => <<(maps:get(signature, M))/binary, 1:1>>} end,
               fun(M) -> M#{signature => binary_to_list(maps:get(signature, M))} end,
               fun(M) -> M#{signed_at => Now + 3600} end,
               fun(M) -> M#{signed_at => Now - 3600} end,
               fun(M) -> M#{signed_at => -1} end,
               fun(M) -> M#{signed_at => 1 bsl 64} end,
               fun(M) -> M#{signed_at => -(1 bsl 80)} end,
               fun(M) -> M#{signed_at => Now * 1.0} end,
               fun(M) -> M#{signed_at => <<"now">>} end],
    proper_types:bind(proper_types:tuple([message(), proper_types:oneof(Changes)]),
                      fun({Message, Change}) -> Change(Sign(Message)) end, false).

%% @doc The golden vectors: name, message, canonical form, signature.
-spec vectors() -> [{string(), map(), binary(), binary()}].
vectors() ->
    {ok, Cwd} = file:get_cwd(),
    {ok, Text} = file:read_file(above([Cwd, filename:absname(filename:dirname(?FILE))])),
    [begin
         [Name, Term, Canonical, Signature] = string:split(Line, " ", all),
         {binary_to_list(Name), binary_to_term(<<131, (unhex(Term))/binary>>), unhex(Canonical),
          Signature}
     end || Line <- string:split(Text, "\n", all), Line =/= <<>>].

unhex(Text) -> binary:decode_hex(Text).

above([Dir | Others]) ->
    File = filename:join([Dir, "tests", "vectors", "messages.txt"]),
    case {filelib:is_regular(File), filename:dirname(Dir)} of
        {true, _} -> File;
        {false, Dir} -> above(Others);
        {false, Up} -> above([Up | Others])
    end.

%% @doc The library's file, if it has been built; says so if not.
-spec library() -> {ok, file:filename()} | none.
library() ->
    case esdb_gater_nif:loaded() of
        true ->
            {ok, filename:join(code:priv_dir(erl_esdb_gater), "gater_nif.so")};
        false ->
            said_once(esdb_gater_nif:status()),
            none
    end.

said_once(Status) ->
    case persistent_term:get({?MODULE, said}, no) of
        Status ->
            ok;
        _ ->
            persistent_term:put({?MODULE, said}, Status),
            io:format(user, "~n*** LEFT OUT: what needs gater_nif; ~0tp ***~n", [Status])
    end.
